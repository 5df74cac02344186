// The mi7 command. Each group of verbs has a file of its own; this one puts them together.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

#include "tools/mi7/pipe_commands.h"

namespace {

// Where a command was to come and another word did: what it was, and which there are. Empty: it is
// something else that is wrong.
std::string UnknownCommand(const CLI::App& app, int argc, char** argv) {
  const auto commands_of = [](const CLI::App& of) {
    return of.get_subcommands([](const CLI::App*) { return true; });
  };
  std::string path = app.get_name();
  std::vector<const CLI::App*> commands = commands_of(app);
  for (int i = 1; i < argc && !commands.empty(); ++i) {
    const std::string word = argv[i];
    if (word.empty() || word[0] == '-') return "";
    const auto named = std::find_if(commands.begin(), commands.end(), [&](const CLI::App* command) {
      return command->get_name() == word;
    });
    if (named == commands.end()) {
      std::string text = "mi7: unknown command '" + word + "'; after '" + path + "' comes one of";
      for (const CLI::App* command : commands) text += " " + command->get_name();
      return text;
    }
    path += " " + word;
    commands = commands_of(**named);
  }
  return "";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Looks at mi7 and works with it. Each command has --help.", "mi7");
  app.require_subcommand(1);
  int status = 0;
  mi7::tools::AddPipeCommands(app, status);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) {
      if (const std::string text = UnknownCommand(app, argc, argv); !text.empty()) {
        std::cerr << text << "; see --help\n";
        return error.get_exit_code();
      }
    }
    return app.exit(error);
  }
  return status;
}
