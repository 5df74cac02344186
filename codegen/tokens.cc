#include "codegen/tokens.h"

#include <cctype>

namespace mi7::codegen {
namespace {

bool IsWordChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

}  // namespace

std::string_view Token::content() const {
  std::string_view inside = text.substr(1);
  if (!inside.empty() && inside.back() == '"') inside.remove_suffix(1);
  return inside;
}

std::vector<Token> Tokenize(std::string_view text) {
  std::vector<Token> tokens;
  int line = 1;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char c = text[i++];
    if (c == '\n') {
      ++line;
    } else if (c == '#') {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (c == '"') {
      while (i < text.size() && text[i] != '"' && text[i] != '\n') i += text[i] == '\\' ? 2 : 1;
      if (i < text.size() && text[i] == '"') ++i;
      tokens.push_back({text.substr(begin, i - begin), line});
    } else if (IsWordChar(c) || c == '@') {
      while (i < text.size() && IsWordChar(text[i])) ++i;
      tokens.push_back({text.substr(begin, i - begin), line});
    } else if (std::isspace(static_cast<unsigned char>(c)) == 0) {
      tokens.push_back({text.substr(begin, 1), line});
    }
  }
  return tokens;
}

}  // namespace mi7::codegen
