// The mi7 command. Each group of verbs has a file of its own; this one puts them together.

#include <CLI/CLI.hpp>

#include "tools/mi7/pipe_commands.h"

int main(int argc, char** argv) {
  CLI::App app("Looks at mi7 and works with it. Each command has --help.", "mi7");
  app.require_subcommand(1);
  int status = 0;
  mi7::tools::AddPipeCommands(app, status);
  CLI11_PARSE(app, argc, argv);
  return status;
}
