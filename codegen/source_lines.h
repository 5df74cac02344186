#pragma once

// Where a declaration stands in its schema's text. Cap'n Proto 0.9 does not tell its plugins.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mi7::codegen {

// The line (from 1) of the declaration with the given scopes and name, for instance {"Outer",
// "Inner", "method"}; 0 where it is not found. Comments and strings are skipped.
int FindDeclaration(std::string_view text, const std::vector<std::string>& scoped_name);

// True if the text declares the file id, as "@0x1234;".
bool DeclaresId(std::string_view text, uint64_t id);

// Finds schema texts: a plugin learns only a file's name, and runs in the output folder.
class SourceFinder {
 public:
  // The folders to look in, in this order. A text is taken if it declares the id that is asked for.
  explicit SourceFinder(std::vector<std::string> roots) : roots_(std::move(roots)) {}

  // The folders of MI7_SCHEMA_PATH (separated by ':'; relative to where `capnp compile` was
  // started), that place itself, the current folder, and where schemas are installed.
  static SourceFinder FromEnvironment();

  // "" where it is not found.
  std::string Read(const std::string& file, uint64_t id) const;

 private:
  std::vector<std::string> roots_;
};

}  // namespace mi7::codegen
