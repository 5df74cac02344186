#include "codegen/schema_text.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7::codegen {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Optional;

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
  EXPECT_THAT(text.cpp_namespace, Optional(ElementsAre("calc", "v1")));
  EXPECT_EQ(text.cpp_namespace_line, 5);
  EXPECT_THAT(text.imports, ElementsAre("/capnp/c++.capnp", "base/inner.capnp", "/far.capnp"));
  EXPECT_THAT(ParseSchemaText("interface A extends(import \"a.capnp\".B) {}").imports,
              ElementsAre("a.capnp"));
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

// "calc.v1", as the file's annotations have it; "?" where that is not clear.
std::string NamespaceOf(const std::string& text) {
  const auto found = ParseSchemaText(text).cpp_namespace;
  if (!found.has_value()) return "?";
  std::string joined;
  for (const std::string& part : *found) joined += (joined.empty() ? "" : ".") + part;
  return joined;
}

TEST(ParseSchemaText, KnowsTheAnnotationsOfCppByWhatTheirNamesMean) {
  const std::string cxx = "using Cxx = import \"/capnp/c++.capnp\";";
  const std::string go = "using Go = import \"go.capnp\";";
  EXPECT_EQ(NamespaceOf(cxx + "$Cxx.namespace(\"a::b\");"), "a.b");
  EXPECT_EQ(NamespaceOf("$import \"/capnp/c++.capnp\".namespace(\"a\");"), "a");
  EXPECT_EQ(NamespaceOf("using import \"/capnp/c++.capnp\".namespace; $namespace(\"a\");"), "a");
  EXPECT_EQ(NamespaceOf(cxx + "using space = .Cxx.namespace; $space(\"a\");"), "a");
  EXPECT_EQ(NamespaceOf(go + "$Go.namespace(\"a\");"), "");
  EXPECT_EQ(NamespaceOf(cxx + go + "$Cxx.namespace(\"a\"); $Go.namespace(\"b\");"), "a");
  EXPECT_EQ(NamespaceOf("annotation namespace (file) :Text; $namespace(\"a\");"), "");
  EXPECT_EQ(NamespaceOf(cxx + "$Cxx.allowCancellation; $Cxx.other(\"a\");"), "");
}

TEST(ParseSchemaText, SaysWhereANamespaceIsNotClear) {
  const std::string cxx = "using Cxx = import \"/capnp/c++.capnp\";";
  const std::string go = "using Go = import \"go.capnp\";";
  EXPECT_EQ(NamespaceOf(go + "$Go.Cxx.namespace(\"a\");"), "?");
  EXPECT_EQ(NamespaceOf("$Unknown.namespace(\"a\");"), "?");
  EXPECT_EQ(NamespaceOf("using A = B; using B = A; $A.namespace(\"a\");"), "?");
  EXPECT_EQ(NamespaceOf(cxx + "struct A { using Cxx = import \"go.capnp\"; } "
                              "$Cxx.namespace(\"a\");"),
            "?");
  EXPECT_EQ(NamespaceOf(cxx + "$Cxx.namespace(.constant);"), "?");
  EXPECT_EQ(NamespaceOf(cxx + "$Cxx.namespace(\"\\x61\");"), "?");
  EXPECT_EQ(NamespaceOf(go + cxx + "$Go.Cxx.a(\"a\"); $Cxx.namespace(\"b\"); $Go.Cxx.a(\"a\");"),
            "b");
  EXPECT_EQ(NamespaceOf(go + "const a :Text = \"\" $Go.Cxx.b(\"c\"); $Go.Cxx.flag;"), "");
}

TEST(ParseSchemaText, NamesThatAreNotClearAreEmpty) {
  constexpr char kNames[] = R"(
      using Cxx = import "/capnp/c++.capnp";
      using Go = import "go.capnp";
      struct A $Go.name("X") {}
      struct B $Go.Cxx.name("X") { struct Inner $Cxx.name("Y") {} }
      struct C $Cxx.name(.constant) {}
      struct D $Go.Cxx.name("X") $Cxx.name("E") $Go.Cxx.name("X") {})";
  std::vector<std::string> found;
  for (const TextDeclaration& declaration : ParseSchemaText(kNames).declarations) {
    found.push_back(declaration.name + " " + declaration.cpp_name);
  }
  EXPECT_THAT(found, ElementsAre("A A", "B ", "B.Inner ", "C ", "D E"));
}

TEST(ParseSchemaText, WhatIsNoSchemaDeclaresNothing) {
  for (const char* const text :
       {"", "}}}{{\"\\", "struct", "struct A", "import", ".name(", "@0x", "struct A $Cxx.name(\"",
        "interface A } {", "using", "using =", "$"}) {
    EXPECT_EQ(ParseSchemaText(text).id, 0u) << text;
    EXPECT_EQ(ParseSchemaText(text).cpp_namespace_line, 0) << text;
    EXPECT_THAT(ParseSchemaText(text).imports, IsEmpty()) << text;
  }
}

}  // namespace
}  // namespace mi7::codegen
