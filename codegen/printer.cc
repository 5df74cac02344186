#include "codegen/printer.h"

#include <algorithm>
#include <utility>

namespace mi7::codegen {
namespace {

// The bytes of the UTF-8 character at the beginning of `text`, which is not empty. One that is cut
// short, or is of another encoding, takes nothing that follows it along.
size_t CharacterSize(std::string_view text) {
  const unsigned char lead = static_cast<unsigned char>(text[0]);
  const size_t whole = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  size_t size = 1;
  while (size < std::min(whole, text.size()) && (text[size] & 0xc0) == 0x80) ++size;
  return size;
}

// Marks that reorder the text around them can make code look like other code; compilers warn of
// them. These are U+200E, U+200F, U+202A to U+202E and U+2066 to U+2069.
bool IsBidirectionalMark(std::string_view character) {
  if (character.size() != 3 || character[0] != '\xe2') return false;
  const unsigned char second = static_cast<unsigned char>(character[1]);
  const unsigned char third = static_cast<unsigned char>(character[2]);
  if (second == 0x80) return third == 0x8e || third == 0x8f || (third >= 0xaa && third <= 0xae);
  return second == 0x81 && third >= 0xa6 && third <= 0xa9;
}

// One line of a comment: no control characters, no trailing space, and no end that would continue
// it on the next line.
std::string CleanComment(std::string_view line) {
  std::string clean;
  for (size_t i = 0; i < line.size();) {
    const std::string_view character = line.substr(i, CharacterSize(line.substr(i)));
    i += character.size();
    if (character == "\t") {
      clean += "  ";
    } else if (static_cast<unsigned char>(character[0]) >= ' ' && character[0] != '\x7f' &&
               !IsBidirectionalMark(character)) {
      clean += character;
    }
  }
  clean.resize(clean.find_last_not_of(' ') + 1);
  if (clean.ends_with('\\') || clean.ends_with("?\?/")) clean += " .";
  return clean;
}

// An upper bound of the columns that a word takes: whatever is not ASCII counts as wide.
size_t Columns(std::string_view word) {
  size_t columns = 0;
  for (size_t i = 0; i < word.size(); i += CharacterSize(word.substr(i))) {
    columns += static_cast<unsigned char>(word[i]) < 0x80 ? 1 : 2;
  }
  return columns;
}

}  // namespace

std::string Join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string result;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) result += separator;
    result += parts[i];
  }
  return result;
}

void Printer::Line(std::string_view text) {
  if (!text.empty()) text_.append(indent_, ' ').append(text);
  text_ += '\n';
}

void Printer::List(const std::string& head, const std::vector<std::string>& arguments,
                   const std::string& tail, bool is_declaration) {
  const std::string whole = head + Join(arguments, ", ") + tail;
  if (Fits(whole.size()) || arguments.empty()) return Line(whole);

  // Below the opening parenthesis, or four columns in: a call takes what needs fewer lines.

  const Lines aligned = Fill(head, std::string(head.size(), ' '), arguments, tail);
  Lines broken = Fill(std::string(4, ' '), std::string(4, ' '), arguments, tail);
  broken.text.insert(broken.text.begin(), head);
  const bool is_aligned =
      aligned.fit && (is_declaration || !broken.fit || aligned.text.size() <= broken.text.size());
  for (const std::string& line : is_aligned ? aligned.text : broken.text) Line(line);
}

void Printer::Function(const std::string& head, const std::string& body, bool is_template) {
  const std::string whole = head + " { " + body + " }";
  if (Fits(whole.size()) && !is_template) return Line(whole);
  Line(head + " {");
  Line("  " + body);
  Line("}");
}

Printer::Lines Printer::Fill(const std::string& begin, const std::string& margin,
                             const std::vector<std::string>& arguments,
                             const std::string& tail) const {
  Lines result;
  std::string line = begin;
  bool is_empty = true;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string piece = arguments[i] + (i + 1 == arguments.size() ? tail : ",");
    if (!is_empty && !Fits(line.size() + 1 + piece.size())) {
      result.text.push_back(line);
      line = margin;
      is_empty = true;
    }
    line += (is_empty ? "" : " ") + piece;
    is_empty = false;
    if (!Fits(line.size())) {
      result.fit = false;
      // Too long for any line: break between a type and its name, or before a template's argument.
      const size_t space = line.rfind(' ');
      const size_t angle = line.find('<');
      const size_t cut = line.ends_with(">()" + tail) || line.ends_with(">(),") ? angle + 1 : space;
      if (cut == std::string::npos || cut <= margin.size()) continue;
      result.text.push_back(line.substr(0, cut));
      line = margin + "    " + line.substr(line[cut] == ' ' ? cut + 1 : cut);
    }
  }
  result.text.push_back(line);
  return result;
}

void Printer::TemplateList(const std::string& type, const std::vector<std::string>& type_arguments,
                           const std::string& name, const std::vector<std::string>& arguments,
                           const std::string& tail, bool is_declaration) {
  const std::string whole_type = type + Join(type_arguments, ", ");
  if (Fits((whole_type + name).size())) {
    return List(whole_type + name, arguments, tail, is_declaration);
  }
  std::string line = type;
  if (is_declaration && Fits(whole_type.size() + 1)) {
    line = whole_type;
  } else {
    // The template's arguments one below the other.
    std::string margin(type.size(), ' ');
    const bool fit = std::all_of(
        type_arguments.begin(), type_arguments.end(),
        [&](const std::string& argument) { return Fits(margin.size() + argument.size() + 2); });
    if (!fit && !is_declaration) {
      Line(line);
      line = margin = "    ";
    }
    for (size_t i = 0; i + 1 < type_arguments.size(); ++i) {
      Line(line + type_arguments[i] + ",");
      line = margin;
    }
    line += type_arguments.back();
  }
  if (!is_declaration) return Call(line + name, arguments, tail);
  Line(line + ">");
  Declaration(name.substr(2), arguments, tail);
}

void Printer::Comment(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  const size_t width = kColumnMax - indent_ - 3;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string rest = CleanComment(text.substr(begin, end - begin));
    begin = end + 1;
    do {
      // The last space that leaves a line short enough, or the first one at all.
      size_t cut = rest.size();
      if (Columns(rest) > width) {
        const size_t first = rest.find_first_not_of(' ');
        for (size_t space = rest.find(' ', first); space != std::string::npos;
             space = rest.find(' ', space + 1)) {
          if (cut == rest.size() || Columns(rest.substr(0, space)) <= width) cut = space;
        }
      }
      Line(CleanComment(rest.empty() ? "//" : "// " + rest.substr(0, cut)));
      rest.erase(0, std::min(rest.find_first_not_of(' ', cut), rest.size()));
    } while (!rest.empty());
  }
}

}  // namespace mi7::codegen
