#include "codegen/schema_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7::codegen {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr char kText[] = R"(@0xABCDEF0123456789;
# import "comment.capnp"; struct Comment {}
using Cxx = import "/capnp/c++.capnp";
using Inner = import "base/inner.capnp".Inner;
$Cxx.namespace("calc::v1");
annotation kept @0x1111111111111111 (struct, interface) :Text;
const text :Text = "struct Quoted {} import \"x\"";
struct Outer(T) $kept("Kept") $Cxx.name("Other") {
  struct @0 :Text;
  union { enum @1 :Void; interface @2 :import "/far.capnp".Far; }
  group :group { a @3 :Int32; }
  interface Service extends(Inner) { call @0 (struct :Text) -> (); }
  enum Color { struct @0; }
}
interface Last @0x2222222222222222 {}
)";

TEST(ParseSchemaText, FindsIdNamespaceAndImports) {
  const SchemaText text = ParseSchemaText(kText);
  EXPECT_EQ(text.id, 0xabcdef0123456789u);
  EXPECT_THAT(text.cpp_namespace, ElementsAre("calc", "v1"));
  EXPECT_EQ(text.cpp_namespace_line, 5);
  EXPECT_THAT(text.imports, ElementsAre("/capnp/c++.capnp", "base/inner.capnp", "/far.capnp"));
}

TEST(ParseSchemaText, FindsDeclarationsWithTheirScopesAndNamesInCpp) {
  std::vector<std::string> found;
  for (const TextDeclaration& declaration : ParseSchemaText(kText).declarations) {
    found.push_back(declaration.name + " " + declaration.cpp_name +
                    (declaration.is_interface ? " interface" : ""));
  }
  EXPECT_THAT(found, ElementsAre("Outer Other", "Outer.Service Other_Service interface",
                                 "Outer.Color Other_Color", "Last Last interface"));
}

TEST(ParseSchemaText, WhatIsNoSchemaDeclaresNothing) {
  for (const char* const text : {"", "}}}{{\"\\", "struct", "struct A", "import", ".name(", "@0x",
                                 "struct A $Cxx.name(\"", "interface A } {"}) {
    EXPECT_EQ(ParseSchemaText(text).id, 0u) << text;
    EXPECT_EQ(ParseSchemaText(text).cpp_namespace_line, 0) << text;
    EXPECT_THAT(ParseSchemaText(text).imports, IsEmpty()) << text;
  }
}

}  // namespace
}  // namespace mi7::codegen
