#include "codegen/printer.h"

#include <string>

#include <gtest/gtest.h>

namespace mi7::codegen {
namespace {

std::string Comment(const std::string& text) {
  Printer out;
  out.Comment(text);
  return out.Take();
}

TEST(Printer, CommentBreaksLongLinesBetweenWords) {
  const std::string word(60, 'w');
  EXPECT_EQ(Comment(word + " " + word), "// " + word + "\n// " + word + "\n");
  const std::string endless(200, 'e');
  EXPECT_EQ(Comment(endless), "// " + endless + "\n");
  EXPECT_EQ(Comment("a " + endless + " b"), "// a\n// " + endless + "\n// b\n");
}

TEST(Printer, CommentKeepsIndentationAndEmptyLines) {
  EXPECT_EQ(Comment("a\n\n  b  \n\n"), "// a\n//\n//   b\n");
  EXPECT_EQ(Comment(""), "//\n");
}

TEST(Printer, CommentCannotReachTheNextLineOrDeceiveTheReader) {
  EXPECT_EQ(Comment("a \\"), "// a \\ .\n");
  EXPECT_EQ(Comment("a \\ "), "// a \\ .\n");
  EXPECT_EQ(Comment("a ?\?/"), "// a ?\?/ .\n");
  EXPECT_EQ(Comment("a\rb\tc\x01"), "// ab  c\n");
  EXPECT_EQ(Comment("a\xe2\x80\xae"
                    "b\xe2\x81\xa9"),
            "// ab\n");
  EXPECT_EQ(Comment("cut \xe2\x80"), "// cut \xe2\x80\n");
}

TEST(Printer, CommentOfAnotherEncodingCannotReachTheNextLine) {
  EXPECT_EQ(Comment("\xe9\rint x;"), "// \xe9int x;\n");
  EXPECT_EQ(Comment("\xf0\rint x;"), "// \xf0int x;\n");
  EXPECT_EQ(Comment("\xf0\x9f\x98\rint x;"), "// \xf0\x9f\x98int x;\n");
  EXPECT_EQ(Comment("\xe9\\\r"), "// \xe9\\ .\n");
  EXPECT_EQ(Comment("\xf0\xe2\x80\xae"), "// \xf0\n");
}

TEST(Printer, CallFitsOneLineOrIsAligned) {
  Printer out;
  const std::string a(40, 'a'), b(40, 'b');
  out.Call("f(", {a, b}, ");");
  out.Call("function_name(", {a, b}, ");");
  EXPECT_EQ(out.Take(), "f(" + a + ", " + b + ");\n" + "function_name(" + a + ", " + b + ");\n");
  out.Call("long_function_name(", {a, b}, ");");
  EXPECT_EQ(out.Take(), "long_function_name(" + a + ",\n" + std::string(19, ' ') + b + ");\n");
}

TEST(Printer, IndentationIsNoTrailingSpace) {
  Printer out;
  out.Indent();
  out.Line("a");
  out.Line();
  out.Outdent();
  out.Line("b");
  EXPECT_EQ(out.Take(), "  a\n\nb\n");
}

}  // namespace
}  // namespace mi7::codegen
