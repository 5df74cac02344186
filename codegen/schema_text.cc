#include "codegen/schema_text.h"

#include <cstddef>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "codegen/names.h"
#include "codegen/tokens.h"

namespace mi7::codegen {
namespace {

// An expression such as `Cxx.namespace` or `import "/capnp/c++.capnp".namespace`.
struct Reference {
  std::string_view import;  // as written; empty where it begins with a name
  std::string_view name;
  std::vector<std::string_view> members;
  size_t end = 0;  // the token behind it

  bool operator==(const Reference& other) const {
    return import == other.import && name == other.name && members == other.members;
  }
};

// What an annotation is, as far as names in C++ go.
enum class Meaning { kNamespace, kName, kNone, kUnclear };

class Parser {
 public:
  explicit Parser(std::string_view text) : tokens_(Tokenize(text)) {}

  SchemaText Parse() {
    FindAliases();
    result_.cpp_namespace.emplace();
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
      } else if (token == "$" && depth == 0 && BeginsStatement(i)) {
        ReadFileAnnotation(i);
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
    std::string cpp_name;  // "" where it is not clear
  };

  const Token& At(size_t i) const { return i < tokens_.size() ? tokens_[i] : end_; }

  static bool IsTypeName(std::string_view word) {
    return !word.empty() && word[0] >= 'A' && word[0] <= 'Z';
  }

  bool BeginsStatement(size_t i) const {
    return i == 0 || At(i - 1).text == ";" || At(i - 1).text == "}";
  }

  Reference ReadReference(size_t i) const {
    Reference reference;
    if (At(i).text == "import" && At(i + 1).is_string()) {
      reference.import = At(i + 1).content();
      i += 2;
    } else {
      if (At(i).text == ".") ++i;
      reference.name = At(i).text;
      ++i;
    }
    for (; At(i).text == "."; i += 2) reference.members.push_back(At(i + 1).text);
    reference.end = i;
    return reference;
  }

  // `using Name = reference;` and `using reference;`, which has the name of its last part.
  void FindAliases() {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].text != "using") continue;
      const bool is_named = At(i + 2).text == "=";
      Reference reference = ReadReference(is_named ? i + 3 : i + 1);
      if (At(reference.end).text != ";" || (!is_named && reference.members.empty())) continue;
      const std::string_view name = is_named ? At(i + 1).text : reference.members.back();
      const auto [found, is_new] = aliases_.emplace(name, reference);
      // Each in its scope: which one is meant is not looked at.
      if (!is_new && found->second != reference) ambiguous_.insert(name);
    }
  }

  Meaning MeaningOf(Reference annotation) const {
    for (size_t hops = 0; annotation.import.empty(); ++hops) {
      const auto alias = aliases_.find(annotation.name);
      // Declared in this file, or, as one of its scopes has it, anywhere.
      if (alias == aliases_.end()) {
        return annotation.members.empty() ? Meaning::kNone : Meaning::kUnclear;
      }
      if (hops > aliases_.size() || ambiguous_.count(annotation.name) != 0) {
        return Meaning::kUnclear;
      }
      Reference meant = alias->second;
      meant.members.insert(meant.members.end(), annotation.members.begin(),
                           annotation.members.end());
      annotation = std::move(meant);
    }
    // Through another file's name for it, it may be any.
    if (annotation.members.size() != 1) return Meaning::kUnclear;
    const std::string_view file = annotation.import.substr(annotation.import.rfind('/') + 1);
    if (file != "c++.capnp") return Meaning::kNone;
    if (annotation.members[0] == "namespace") return Meaning::kNamespace;
    return annotation.members[0] == "name" ? Meaning::kName : Meaning::kNone;
  }

  // `("text")` at `i`: the text. Nothing where it is something else, such as the name of a
  // constant.
  std::optional<std::string> ReadValue(size_t i) const {
    if (At(i).text != "(" || !At(i + 1).is_string() || At(i + 2).text != ")") return std::nullopt;
    const std::string text(At(i + 1).content());
    if (text.find('\\') != std::string::npos) return std::nullopt;  // an escape
    return text;
  }

  void ReadFileAnnotation(size_t dollar) {
    const Reference annotation = ReadReference(dollar + 1);
    const Meaning meaning = MeaningOf(annotation);
    if (meaning == Meaning::kNamespace) {
      const std::optional<std::string> value = ReadValue(annotation.end);
      result_.cpp_namespace.reset();
      if (value.has_value()) result_.cpp_namespace = SplitNamespace(*value);
      result_.cpp_namespace_line = At(annotation.end + 1).line;
    } else if (meaning == Meaning::kUnclear && At(annotation.end).text == "(" &&
               result_.cpp_namespace_line == 0) {
      result_.cpp_namespace.reset();
    }
  }

  // The declaration whose keyword is at `keyword`; returns where its brace is.
  size_t Declare(size_t keyword, size_t depth) {
    const std::string name(At(keyword + 1).text);
    std::optional<std::string> renamed;
    bool is_clear = true;
    size_t brace = keyword + 2;
    for (; brace < tokens_.size() && tokens_[brace].text != "{"; ++brace) {
      if (At(brace).text == "import" && At(brace + 1).is_string()) {
        result_.imports.emplace_back(At(brace + 1).content());
      }
      if (At(brace).text != "$") continue;
      const Reference annotation = ReadReference(brace + 1);
      const Meaning meaning = MeaningOf(annotation);
      if (meaning == Meaning::kName) renamed = ReadValue(annotation.end);
      if (meaning == Meaning::kName
              ? !renamed.has_value()
              : meaning == Meaning::kUnclear && At(annotation.end).text == "(") {
        is_clear = false;
      }
    }
    const std::string cpp_name = renamed.value_or(is_clear ? name : "");
    Scope scope{.depth = depth + 1, .name = name, .cpp_name = cpp_name};
    if (!scopes_.empty()) {
      const Scope& outer = scopes_.back();
      scope.name = outer.name + "." + name;
      const bool are_clear = !outer.cpp_name.empty() && !cpp_name.empty();
      scope.cpp_name = are_clear ? outer.cpp_name + "_" + cpp_name : "";
    }
    result_.declarations.push_back({.name = scope.name,
                                    .cpp_name = scope.cpp_name,
                                    .is_interface = tokens_[keyword].text == "interface"});
    scopes_.push_back(std::move(scope));
    return brace;
  }

  const std::vector<Token> tokens_;
  const Token end_;
  std::map<std::string_view, Reference> aliases_;
  std::set<std::string_view> ambiguous_;
  std::vector<Scope> scopes_;
  SchemaText result_;
};

}  // namespace

SchemaText ParseSchemaText(std::string_view text) { return Parser(text).Parse(); }

}  // namespace mi7::codegen
