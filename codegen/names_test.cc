#include "codegen/names.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "codegen/macros.h"

namespace mi7::codegen {
namespace {

TEST(Names, UsableIdentifiers) {
  for (const char* name : {"Add", "a", "Snake_case", "A1", "Foo_"}) {
    EXPECT_TRUE(IsUsableIdentifier(name)) << name;
  }
  for (const char* name : {"", "1st", "add-up", "a__b", "_Reserved", "_x", "class", "co_await",
                           "xor_eq", "alignas", "a b", "\xc3\xa4"}) {
    EXPECT_FALSE(IsUsableIdentifier(name)) << name;
  }
}

TEST(Names, MacrosAreSeveralCapitals) {
  EXPECT_TRUE(LooksLikeMacro("NULL"));
  EXPECT_TRUE(LooksLikeMacro("INT_MAX"));
  EXPECT_TRUE(LooksLikeMacro("AB2"));
  EXPECT_FALSE(LooksLikeMacro("T1"));
  EXPECT_FALSE(LooksLikeMacro("Null"));
}

TEST(Names, CapitalizeChangesOnlyAFirstSmallLetter) {
  EXPECT_EQ(Capitalize("addAll"), "AddAll");
  EXPECT_EQ(Capitalize("Add"), "Add");
  EXPECT_EQ(Capitalize("_a"), "_a");
  EXPECT_EQ(Capitalize(""), "");
}

TEST(NameScope, ClaimsTheFirstFreeNameWithoutTwoUnderscores) {
  NameScope scope;
  scope.Reserve("Dispatch");
  EXPECT_EQ(scope.Claim("Dispatch"), "Dispatch_");
  EXPECT_EQ(scope.Claim("Dispatch"), "Dispatch_2");
  EXPECT_EQ(scope.Claim("Dispatch"), "Dispatch_3");
  EXPECT_EQ(scope.Claim("Foo_"), "Foo_");
  EXPECT_EQ(scope.Claim("Foo_"), "Foo_2");
  EXPECT_TRUE(scope.Has("Foo_2"));
  EXPECT_FALSE(scope.Has("Foo"));
}

TEST(UpperCase, IsAsInTheMessagesOfCapnProto) {
  EXPECT_EQ(UpperCase("fooBar2"), "FOO_BAR2");
  EXPECT_EQ(UpperCase("Foo"), "FOO");
  EXPECT_EQ(UpperCase("null"), "NULL_");
  EXPECT_EQ(UpperCase(""), "");
}

TEST(SplitNamespace, SkipsWhatIsEmpty) {
  EXPECT_EQ(SplitNamespace("calc::v1"), (std::vector<std::string>{"calc", "v1"}));
  EXPECT_EQ(SplitNamespace("::calc::"), std::vector<std::string>{"calc"});
  EXPECT_TRUE(SplitNamespace("").empty());
}

TEST(IsMacro, KnowsThoseOfSystemHeaders) {
  for (const char* const macro : {"EOF", "NAN", "BIG_ENDIAN", "SEEK_SET", "LOCKABLE", "X_OK"}) {
    EXPECT_TRUE(IsMacro(macro)) << macro;
  }
  for (const char* const name : {"", "OK", "NULL_", "Eof", "assert"})
    EXPECT_FALSE(IsMacro(name)) << name;
}

}  // namespace
}  // namespace mi7::codegen
