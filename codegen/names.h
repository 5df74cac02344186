#pragma once

// Names and ids as C++ has them: which names are possible, which are taken, and what to use
// instead.

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace mi7::codegen {

// An id as schemas have it, after the '@': "0x8b9489a50f184eb2".
std::string Hex(uint64_t id);

// "add" to "Add".
std::string Capitalize(std::string_view name);

// "calc::v1" to {"calc", "v1"}.
std::vector<std::string> SplitNamespace(std::string_view text);

// "fooBar" to "FOO_BAR", as capnpc-c++ does with enumerants, constants and members of unions.
std::string UpperCase(std::string_view name);

bool IsCppKeyword(std::string_view name);

// True if C++ lets a program use the name: an identifier, no keyword, and not reserved for the
// implementation ("__" anywhere, '_' before a capital, or a leading '_').
bool IsUsableIdentifier(std::string_view name);

// True if the letters of the name are several and all capitals, as macros have it (NULL, EOF).
bool LooksLikeMacro(std::string_view name);

// The names that are taken in one C++ scope. Copyable; not thread-safe.
class NameScope {
 public:
  // Takes a name that somebody else declares there.
  void Reserve(std::string_view name) { taken_.emplace(name); }

  bool Has(std::string_view name) const { return taken_.find(name) != taken_.end(); }

  // Takes `wanted`, or the first free one of wanted_, wanted_2, wanted_3... What it returns depends
  // only on the calls made before.
  std::string Claim(std::string_view wanted);

 private:
  std::set<std::string, std::less<>> taken_;
};

}  // namespace mi7::codegen
