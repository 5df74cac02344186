#include <CLI/CLI.hpp>

#include "gtest/gtest.h"

namespace {

TEST(Cli11Test, ParsesAFlag) {
  CLI::App app("test");
  int count = 0;
  app.add_option("--count", count);
  app.parse("--count=3");
  EXPECT_EQ(count, 3);
}

}  // namespace
