#include "codegen/source_lines.h"

#include <gtest/gtest.h>

namespace mi7::codegen {
namespace {

constexpr char kText[] = R"(@0xABCDEF0123456789;
# interface Outer { call @0 (); }
const text :Text = "interface Outer { call @0 (); }";
const quote :Text = "\" interface Outer {";
struct Outer {
  a @0 :Inner;
  union {
    call @1 :Void;
    other @2 :Void;
  }
  interface Inner {
    call @0 (call :Text = "}",
             other :Int32) -> ();
    other @1 (inner :Inner) -> (); last @2 ();
  }
}
interface Inner {
  call @0 ();
  const limit :Int32 = 5;
})";

TEST(FindDeclaration, FollowsScopes) {
  EXPECT_EQ(FindDeclaration(kText, {"Outer"}), 5);
  EXPECT_EQ(FindDeclaration(kText, {"Outer", "Inner"}), 11);
  EXPECT_EQ(FindDeclaration(kText, {"Outer", "Inner", "call"}), 12);
  EXPECT_EQ(FindDeclaration(kText, {"Outer", "Inner", "other"}), 14);
  EXPECT_EQ(FindDeclaration(kText, {"Outer", "Inner", "last"}), 14);
  EXPECT_EQ(FindDeclaration(kText, {"Inner"}), 17);
  EXPECT_EQ(FindDeclaration(kText, {"Inner", "call"}), 18);
  EXPECT_EQ(FindDeclaration(kText, {"Inner", "limit"}), 19);
}

TEST(FindDeclaration, WhatIsNotThereHasNoLine) {
  EXPECT_EQ(FindDeclaration(kText, {"Missing"}), 0);
  EXPECT_EQ(FindDeclaration(kText, {"Inner", "last"}), 0);
  EXPECT_EQ(FindDeclaration(kText, {}), 0);
  EXPECT_EQ(FindDeclaration("", {"Outer"}), 0);
  EXPECT_EQ(FindDeclaration("}}}{{\"\\", {"Outer"}), 0);
}

}  // namespace
}  // namespace mi7::codegen
