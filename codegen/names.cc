#include "codegen/names.h"

#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>

namespace mi7::codegen {
namespace {

// C++20, sorted.
constexpr std::array<std::string_view, 92> kKeywords = {
    "alignas",       "alignof",     "and",
    "and_eq",        "asm",         "auto",
    "bitand",        "bitor",       "bool",
    "break",         "case",        "catch",
    "char",          "char16_t",    "char32_t",
    "char8_t",       "class",       "co_await",
    "co_return",     "co_yield",    "compl",
    "concept",       "const",       "const_cast",
    "consteval",     "constexpr",   "constinit",
    "continue",      "decltype",    "default",
    "delete",        "do",          "double",
    "dynamic_cast",  "else",        "enum",
    "explicit",      "export",      "extern",
    "false",         "float",       "for",
    "friend",        "goto",        "if",
    "inline",        "int",         "long",
    "mutable",       "namespace",   "new",
    "noexcept",      "not",         "not_eq",
    "nullptr",       "operator",    "or",
    "or_eq",         "private",     "protected",
    "public",        "register",    "reinterpret_cast",
    "requires",      "return",      "short",
    "signed",        "sizeof",      "static",
    "static_assert", "static_cast", "struct",
    "switch",        "template",    "this",
    "thread_local",  "throw",       "true",
    "try",           "typedef",     "typeid",
    "typename",      "union",       "unsigned",
    "using",         "virtual",     "void",
    "volatile",      "wchar_t",     "while",
    "xor",           "xor_eq"};
static_assert(std::is_sorted(kKeywords.begin(), kKeywords.end()));

bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }
bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::string Hex(uint64_t id) {
  char text[24];
  std::snprintf(text, sizeof(text), "0x%016" PRIx64, id);
  return text;
}

std::string Capitalize(std::string_view name) {
  std::string result(name);
  if (!result.empty() && IsLower(result[0])) result[0] = static_cast<char>(result[0] - 'a' + 'A');
  return result;
}

std::vector<std::string> SplitNamespace(std::string_view text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find("::", begin), text.size());
    if (end != begin) parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 2;
  }
  return parts;
}

std::string UpperCase(std::string_view name) {
  std::string result;
  for (const char c : name) {
    if (IsUpper(c) && !result.empty()) result += '_';
    result += IsLower(c) ? static_cast<char>(c - 'a' + 'A') : c;
  }
  return result == "NULL" ? "NULL_" : result;
}

bool IsCppKeyword(std::string_view name) {
  return std::binary_search(kKeywords.begin(), kKeywords.end(), name);
}

bool IsUsableIdentifier(std::string_view name) {
  if (name.empty() || IsDigit(name[0]) || name[0] == '_' || IsCppKeyword(name)) return false;
  if (name.find("__") != std::string_view::npos) return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return IsUpper(c) || IsLower(c) || IsDigit(c) || c == '_'; });
}

bool LooksLikeMacro(std::string_view name) {
  return std::count_if(name.begin(), name.end(), IsUpper) > 1 &&
         std::none_of(name.begin(), name.end(), IsLower);
}

std::string NameScope::Claim(std::string_view wanted) {
  // Never two underscores in a row: such names belong to the implementation.
  std::string stem(wanted);
  if (stem.empty() || stem.back() != '_') stem += '_';
  std::string name(wanted);
  for (int i = 1; !taken_.insert(name).second; ++i) {
    name = i == 1 ? stem : stem + std::to_string(i);
  }
  return name;
}

}  // namespace mi7::codegen
