#include "codegen/source_lines.h"

#include <cstddef>
#include <vector>

#include "codegen/tokens.h"

namespace mi7::codegen {
namespace {

// True if the token before `i` introduces a named scope.
bool IntroducesScope(const std::vector<Token>& tokens, size_t i) {
  if (i == 0) return false;
  const std::string_view keyword = tokens[i - 1].text;
  return keyword == "struct" || keyword == "interface" || keyword == "enum";
}

// True if a declaration of a member or a constant may begin at token `i`.
bool BeginsMember(const std::vector<Token>& tokens, size_t i) {
  if (i == 0) return false;
  const std::string_view before = tokens[i - 1].text;
  return before == "{" || before == "}" || before == ";" || before == "const" ||
         before == "annotation";
}

}  // namespace

int FindDeclaration(std::string_view text, const std::vector<std::string>& scoped_name) {
  const std::vector<Token> tokens = Tokenize(text);
  // How much of `scoped_name` the scopes around token i match, and the depth of braces at which
  // each matched scope was entered.
  std::vector<size_t> entered;
  size_t depth = 0;
  bool entering = false;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view token = tokens[i].text;
    if (token == "{") {
      ++depth;
      if (entering) entered.push_back(depth);
      entering = false;
    } else if (token == "}") {
      if (!entered.empty() && entered.back() == depth) entered.pop_back();
      if (depth > 0) --depth;
    } else if (entered.size() < scoped_name.size() && token == scoped_name[entered.size()]) {
      const size_t here = entered.empty() ? 0 : entered.back();
      if (depth != here) continue;
      const bool is_last = entered.size() + 1 == scoped_name.size();
      if (IntroducesScope(tokens, i)) {
        if (is_last) return tokens[i].line;
        entering = true;
      } else if (is_last && BeginsMember(tokens, i)) {
        return tokens[i].line;
      }
    }
  }
  return 0;
}

}  // namespace mi7::codegen
