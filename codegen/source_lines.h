#pragma once

// Where a declaration stands in its schema's text. Cap'n Proto 0.9 does not tell its plugins.

#include <string>
#include <string_view>
#include <vector>

namespace mi7::codegen {

// The line (from 1) of the declaration with the given scopes and name, for instance {"Outer",
// "Inner", "method"}; 0 where it is not found. Comments and strings are skipped.
int FindDeclaration(std::string_view text, const std::vector<std::string>& scoped_name);

}  // namespace mi7::codegen
