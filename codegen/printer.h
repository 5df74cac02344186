#pragma once

// Prints C++ as clang-format would, with the project's .clang-format: Google style, 100 columns.
// It knows the few shapes that generated code has.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mi7::codegen {

// Collects lines of code. Thread-compatible.
class Printer {
 public:
  static constexpr size_t kColumnMax = 100;

  // One line, indented; an empty one without trailing spaces.
  void Line(std::string_view text = "");

  void Indent() { indent_ += 2; }
  void Outdent() { indent_ -= 2; }

  // True if a line has room for that many characters.
  bool Fits(size_t size) const { return indent_ + size <= kColumnMax; }

  // A function call or a declaration: `head` (ends in an opening parenthesis), the arguments
  // separated by commas, `tail` (begins with the closing one); over several lines where one does
  // not hold them.
  void Call(const std::string& head, const std::vector<std::string>& arguments,
            const std::string& tail) {
    List(head, arguments, tail, false);
  }
  void Declaration(const std::string& head, const std::vector<std::string>& arguments,
                   const std::string& tail) {
    List(head, arguments, tail, true);
  }

  // The same for what begins with a template, which is a call's function or a declaration's return
  // type: `type` (ends in '<'), its arguments, and then `name` (begins with the closing '>', ends
  // in an opening parenthesis).
  void TemplateCall(const std::string& type, const std::vector<std::string>& type_arguments,
                    const std::string& name, const std::vector<std::string>& arguments,
                    const std::string& tail) {
    TemplateList(type, type_arguments, name, arguments, tail, false);
  }
  void TemplateDeclaration(const std::string& type, const std::vector<std::string>& type_arguments,
                           const std::string& name, const std::vector<std::string>& arguments,
                           const std::string& tail) {
    TemplateList(type, type_arguments, name, arguments, tail, true);
  }

  // "head { body }" on one line, or on three; on three after a line with a template's parameters.
  void Function(const std::string& head, const std::string& body, bool is_template);

  // A comment of any length: lines are separated by '\n', and broken between words where they are
  // too long. What would make the comment go on in the next line of code is made harmless.
  void Comment(std::string_view text);

  std::string Take() { return std::move(text_); }

 private:
  struct Lines {
    std::vector<std::string> text;
    bool fit = true;
  };

  // As many arguments on each line as it holds; all lines but the first begin with `margin`.
  Lines Fill(const std::string& begin, const std::string& margin,
             const std::vector<std::string>& arguments, const std::string& tail) const;
  void List(const std::string& head, const std::vector<std::string>& arguments,
            const std::string& tail, bool is_declaration);
  void TemplateList(const std::string& type, const std::vector<std::string>& type_arguments,
                    const std::string& name, const std::vector<std::string>& arguments,
                    const std::string& tail, bool is_declaration);

  size_t indent_ = 0;
  std::string text_;
};

// "a, b, c"
std::string Join(const std::vector<std::string>& parts, std::string_view separator);

}  // namespace mi7::codegen
