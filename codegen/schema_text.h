#pragma once

// What a schema's text declares, as far as names go. The compiler tells its plugins only of what is
// used, while the generated C++ of a schema includes that of all its imports, whole.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mi7::codegen {

// A struct, an interface or an enum.
struct TextDeclaration {
  std::string name;      // with its scopes: "Outer.Inner"
  std::string cpp_name;  // "Outer_Inner", each part as $Cxx.name has it; "" where that is not clear
  bool is_interface = false;

  bool is_top_level() const { return name.find('.') == std::string::npos; }
};

// All of one file.
struct SchemaText {
  uint64_t id = 0;  // 0 if it declares none
  // Nothing where it is not clear: an annotation that is known by a name of another file may be
  // $Cxx.namespace.
  std::optional<std::vector<std::string>> cpp_namespace;
  int cpp_namespace_line = 0;        // 0 if it has none
  std::vector<std::string> imports;  // as written: "/capnp/c++.capnp", "base.capnp"
  std::vector<TextDeclaration> declarations;
};

// Reads any text without complaint: what is no schema declares nothing.
SchemaText ParseSchemaText(std::string_view text);

}  // namespace mi7::codegen
