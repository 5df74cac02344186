#pragma once

// Finds schema texts: a plugin learns only a file's name, and runs in the output folder.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace mi7::codegen {

// A schema as it was found.
struct Source {
  std::string path;  // "" where it was not found
  std::string text;
};

// Const methods are thread-safe, as far as the files stay what they are.
class SourceFinder {
 public:
  // `imports`: the folders that absolute imports start at. `roots`: those that the names of
  // requested files start at. Both are looked through in their order.
  SourceFinder(std::vector<std::string> imports, std::vector<std::string> roots)
      : imports_(std::move(imports)), roots_(std::move(roots)) {}

  // Looks where the compiler that runs this plugin does, by its arguments; before that in the
  // folders of MI7_SCHEMA_PATH (separated by ':'; relative to where the compiler was started).
  static SourceFinder FromEnvironment();
  // The same with the compiler's arguments, its folder ("/proc/1/cwd") and MI7_SCHEMA_PATH given.
  static SourceFinder Of(const std::vector<std::string>& arguments, const std::string& folder,
                         const std::string& schema_path);

  // The text of that name which declares that file id.
  Source Read(const std::string& file, uint64_t id) const;

  // What `import "name"` means in the text at the path `importer`.
  Source Import(const std::string& importer, const std::string& name) const;

 private:
  std::vector<std::string> imports_;
  std::vector<std::string> roots_;
};

}  // namespace mi7::codegen
