#pragma once

// The words of a schema's text.

#include <string_view>
#include <vector>

namespace mi7::codegen {

// A part of the text that it was found in.
struct Token {
  std::string_view text;
  int line = 0;  // from 1

  bool is_string() const { return !text.empty() && text[0] == '"'; }
  // What stands between the quotes, its escapes as they are.
  std::string_view content() const;
};

// Words, strings and single punctuation characters, without comments; a '@' with its number is one
// word. The tokens point into `text`.
std::vector<Token> Tokenize(std::string_view text);

}  // namespace mi7::codegen
