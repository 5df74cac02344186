#include "codegen/source_finder.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string_view>

#include "codegen/schema_text.h"

namespace mi7::codegen {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// The values of an option: "-Ifolder", "--import-path=folder", or in the argument after it.
std::vector<std::string> ValuesOf(const std::vector<std::string>& arguments,
                                  const std::string& option) {
  const std::string prefix = option.substr(0, 2) == "--" ? option + "=" : option;
  std::vector<std::string> values;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == option && i + 1 < arguments.size()) {
      values.push_back(arguments[++i]);
    } else if (arguments[i].size() > prefix.size() && arguments[i].starts_with(prefix)) {
      values.push_back(arguments[i].substr(prefix.size()));
    }
  }
  return values;
}

}  // namespace

SourceFinder SourceFinder::FromEnvironment() {
  // `capnp compile` stays where it was started and runs its plugins in the output folder.
  const std::string compiler = "/proc/" + std::to_string(getppid());
  const char* const schema_path = std::getenv("MI7_SCHEMA_PATH");
  return Of(Split(ReadFile(compiler + "/cmdline"), '\0'), compiler + "/cwd",
            schema_path == nullptr ? "" : schema_path);
}

SourceFinder SourceFinder::Of(const std::vector<std::string>& arguments, const std::string& folder,
                              const std::string& schema_path) {
  std::vector<std::string> imports;
  std::vector<std::string> roots;
  const auto add = [&folder](std::vector<std::string>& to, const std::string& path) {
    if (!path.empty()) to.push_back(path[0] == '/' ? path : folder + "/" + path);
  };
  for (const std::string& path : Split(schema_path, ':')) add(imports, path);
  for (const char* const option : {"-I", "--import-path"}) {
    for (const std::string& path : ValuesOf(arguments, option)) add(imports, path);
  }
  imports.insert(imports.end(), {"/usr/local/include", "/usr/include"});
  for (const std::string& path : ValuesOf(arguments, "--src-prefix")) add(roots, path);
  roots.push_back(folder);
  roots.insert(roots.end(), imports.begin(), imports.end());
  return {std::move(imports), std::move(roots)};
}

Source SourceFinder::Read(const std::string& file, uint64_t id) const {
  if (file.empty()) return {};
  for (const std::string& root : roots_) {
    std::string path = file[0] == '/' ? file : root + "/" + file;
    std::string text = ReadFile(path);
    if (ParseSchemaText(text).id == id) return {std::move(path), std::move(text)};
  }
  return {};
}

Source SourceFinder::Import(const std::string& importer, const std::string& name) const {
  std::vector<std::string> paths;
  if (name.starts_with("/")) {
    for (const std::string& folder : imports_) paths.push_back(folder + name);
  } else if (!importer.empty()) {
    paths.push_back(importer.substr(0, importer.rfind('/') + 1) + name);
  }
  for (std::string& path : paths) {
    std::string text = ReadFile(path);
    if (ParseSchemaText(text).id != 0) return {std::move(path), std::move(text)};
  }
  return {};
}

}  // namespace mi7::codegen
