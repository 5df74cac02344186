#include "codegen/source_lines.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace mi7::codegen {
namespace {

struct Token {
  std::string_view text;
  int line = 0;
};

bool IsWordChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// Words and single punctuation characters; a '@' with its number is one word.
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
    } else if (IsWordChar(c) || c == '@') {
      while (i < text.size() && IsWordChar(text[i])) ++i;
      tokens.push_back({text.substr(begin, i - begin), line});
    } else if (std::isspace(static_cast<unsigned char>(c)) == 0) {
      tokens.push_back({text.substr(begin, 1), line});
    }
  }
  return tokens;
}

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

bool DeclaresId(std::string_view text, uint64_t id) {
  for (const Token& token : Tokenize(text)) {
    if (token.text.substr(0, 3) != "@0x") continue;
    if (std::strtoull(std::string(token.text.substr(1)).c_str(), nullptr, 16) == id) return true;
  }
  return false;
}

SourceFinder SourceFinder::FromEnvironment() {
  // `capnp compile` stays where it was started and runs its plugins in the output folder.
  const std::string base = "/proc/" + std::to_string(getppid()) + "/cwd";
  std::vector<std::string> roots;
  if (const char* variable = std::getenv("MI7_SCHEMA_PATH")) {
    const std::string_view path = variable;
    for (size_t begin = 0; begin < path.size();) {
      const size_t end = std::min(path.find(':', begin), path.size());
      const std::string root(path.substr(begin, end - begin));
      if (!root.empty()) roots.push_back(root[0] == '/' ? root : base + "/" + root);
      begin = end + 1;
    }
  }
  roots.insert(roots.end(), {base, ".", "/usr/local/include", "/usr/include"});
  return SourceFinder(std::move(roots));
}

std::string SourceFinder::Read(const std::string& file, uint64_t id) const {
  for (const std::string& root : roots_) {
    std::ifstream in(file[0] == '/' ? file : root + "/" + file, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    if (DeclaresId(text, id)) return text;
  }
  return "";
}

}  // namespace mi7::codegen
