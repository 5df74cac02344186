#include "base/log.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7 {
namespace {

using testing::ElementsAre;

class LogTest : public testing::Test {
 protected:
  LogTest() {
    SetLogSink([this](LogLevel, absl::string_view text) { lines_.emplace_back(text); });
  }
  ~LogTest() override { SetLogSink(nullptr); }
  std::vector<std::string> lines_;
};

TEST_F(LogTest, LineIsPassedAsItIs) {
  Log(LogLevel::kWarning, "refused \"gr\xc3\xbc\xc3\x9f dich\": \\x1b \xe2\x80\x93 'x'");
  EXPECT_THAT(lines_, ElementsAre("refused \"gr\xc3\xbc\xc3\x9f dich\": \\x1b \xe2\x80\x93 'x'"));
}

TEST_F(LogTest, ControlCharactersAreEscaped) {
  Log(LogLevel::kWarning, "bye\nmi7 error: disk\x1b[2J\r\x07\x7f gr\xc3\xbc\xc3\x9f");
  EXPECT_THAT(lines_, ElementsAre("bye\\nmi7 error: disk\\033[2J\\r\\007\\177 gr\xc3\xbc\xc3\x9f"));
}

// U+0085 and U+2028 end lines, U+009B begins what a terminal obeys.
TEST_F(LogTest, UnicodesControlCharactersAreEscaped) {
  for (const char* const text : {"a\xc2\x85z", "a\xe2\x80\xa8z", "a\xc2\x9bz"}) {
    Log(LogLevel::kWarning, text);
  }
  EXPECT_THAT(lines_, ElementsAre("a\\xc2\\x85z", "a\\xe2\\x80\\xa8z", "a\\xc2\\x9bz"));
}

TEST_F(LogTest, WithoutASinkNothingIsLogged) {
  SetLogSink(nullptr);
  Log(LogLevel::kError, "nobody\nhears");
  EXPECT_THAT(lines_, ElementsAre());
}

}  // namespace
}  // namespace mi7
