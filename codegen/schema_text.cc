#include "codegen/schema_text.h"

#include <cstddef>
#include <cstdlib>
#include <utility>

#include "codegen/names.h"
#include "codegen/tokens.h"

namespace mi7::codegen {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view text) : tokens_(Tokenize(text)) {}

  SchemaText Parse() {
    size_t depth = 0;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const std::string_view token = tokens_[i].text;
      if (token == "{") {
        ++depth;
      } else if (token == "}") {
        if (!scopes_.empty() && scopes_.back().depth == depth) scopes_.pop_back();
        if (depth > 0) --depth;
      } else if (token == "import" && At(i + 1).is_string()) {
        result_.imports.emplace_back(At(i + 1).content());
      } else if (token.substr(0, 3) == "@0x" && depth == 0 && At(i + 1).text == ";") {
        result_.id = std::strtoull(std::string(token.substr(1)).c_str(), nullptr, 16);
      } else if (depth == 0 && IsAnnotation(i, "namespace")) {
        result_.cpp_namespace = SplitNamespace(At(i + 2).content());
        result_.cpp_namespace_line = At(i + 2).line;
      } else if ((token == "struct" || token == "interface" || token == "enum") &&
                 IsTypeName(At(i + 1).text)) {
        i = Declare(i, depth);
        ++depth;
      }
    }
    return std::move(result_);
  }

 private:
  struct Scope {
    size_t depth;  // of braces, inside it
    std::string name;
    std::string cpp_name;
  };

  const Token& At(size_t i) const { return i < tokens_.size() ? tokens_[i] : end_; }

  static bool IsTypeName(std::string_view word) {
    return !word.empty() && word[0] >= 'A' && word[0] <= 'Z';
  }

  // True for `.name("text")` whose name is at `i`: an annotation of capnp/c++.capnp.
  bool IsAnnotation(size_t i, std::string_view name) const {
    return i > 0 && At(i - 1).text == "." && At(i).text == name && At(i + 1).text == "(" &&
           At(i + 2).is_string();
  }

  // The declaration whose keyword is at `keyword`; returns where its brace is.
  size_t Declare(size_t keyword, size_t depth) {
    const std::string name(At(keyword + 1).text);
    std::string cpp_name = name;
    size_t brace = keyword + 2;
    for (; brace < tokens_.size() && tokens_[brace].text != "{"; ++brace) {
      if (IsAnnotation(brace, "name")) cpp_name = At(brace + 2).content();
    }
    Scope scope{.depth = depth + 1, .name = name, .cpp_name = cpp_name};
    if (!scopes_.empty()) {
      scope.name = scopes_.back().name + "." + name;
      scope.cpp_name = scopes_.back().cpp_name + "_" + cpp_name;
    }
    result_.declarations.push_back({.name = scope.name,
                                    .cpp_name = scope.cpp_name,
                                    .is_interface = tokens_[keyword].text == "interface"});
    scopes_.push_back(std::move(scope));
    return brace;
  }

  const std::vector<Token> tokens_;
  const Token end_;
  std::vector<Scope> scopes_;
  SchemaText result_;
};

}  // namespace

SchemaText ParseSchemaText(std::string_view text) { return Parser(text).Parse(); }

}  // namespace mi7::codegen
