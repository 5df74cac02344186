#include "examples/log_tail/log_file.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/types/span.h"
#include "rpc/status_testing.h"

namespace log_tail {
namespace {

class LogFileTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove(path_); }
  void Append(const std::string& text) { std::ofstream(path_, std::ios::app) << text; }
  // All that there is.
  std::string ReadAll(LogFile& file) {
    std::string all;
    char buffer[7];
    for (;;) {
      const size_t got = file.Read(absl::MakeSpan(buffer)).value();
      if (got == 0) return all;
      all.append(buffer, got);
    }
  }
  std::string LastLines(uint32_t lines) {
    LogFile file = LogFile::Open(path_, lines).value();
    return ReadAll(file);
  }
  const std::string path_ = testing::TempDir() + "/log_file_test.log";
};

TEST_F(LogFileTest, BeginsWithTheLastLines) {
  Append("one\ntwo\nthree\n");
  EXPECT_EQ(LastLines(0), "");
  EXPECT_EQ(LastLines(1), "three\n");
  EXPECT_EQ(LastLines(2), "two\nthree\n");
  EXPECT_EQ(LastLines(3), "one\ntwo\nthree\n");
  EXPECT_EQ(LastLines(100), "one\ntwo\nthree\n");
}

TEST_F(LogFileTest, UnfinishedLineIsALine) {
  Append("one\ntwo");
  EXPECT_EQ(LastLines(1), "two");
  EXPECT_EQ(LastLines(2), "one\ntwo");
}

TEST_F(LogFileTest, LinesLongerThanABlockAreFound) {
  const std::string line(200'000, 'x');
  Append(line + "\n" + line + "\n");
  EXPECT_EQ(LastLines(1).size(), line.size() + 1);
  EXPECT_EQ(LastLines(2).size(), 2 * line.size() + 2);
}

TEST_F(LogFileTest, GivesWhatIsAppended) {
  Append("old\n");
  LogFile file = LogFile::Open(path_, 0).value();
  EXPECT_EQ(ReadAll(file), "");
  EXPECT_FALSE(file.Restarted().value());
  EXPECT_EQ(file.offset(), 4u);
  Append("new\n");
  EXPECT_EQ(ReadAll(file), "new\n");
}

TEST_F(LogFileTest, StartsAnewWhenTruncated) {
  Append("a long line\n");
  LogFile file = LogFile::Open(path_, 10).value();
  EXPECT_EQ(ReadAll(file), "a long line\n");
  std::ofstream(path_, std::ios::trunc) << "short\n";
  EXPECT_TRUE(file.Restarted().value());
  EXPECT_EQ(ReadAll(file), "short\n");
  EXPECT_FALSE(file.Restarted().value());
}

TEST_F(LogFileTest, ReadsTheOldFileToItsEndBeforeTheNewOne) {
  Append("one\n");
  LogFile file = LogFile::Open(path_, 10).value();
  EXPECT_EQ(ReadAll(file), "one\n");
  std::ofstream old(path_, std::ios::app);
  std::filesystem::rename(path_, path_ + ".1");
  EXPECT_FALSE(file.Restarted().value()) << "there is no new file yet";
  Append("three\n");
  old << "two\n" << std::flush;
  EXPECT_FALSE(file.Restarted().value()) << "the old one has more";
  EXPECT_EQ(ReadAll(file), "two\n");
  EXPECT_TRUE(file.Restarted().value());
  EXPECT_EQ(ReadAll(file), "three\n");
}

TEST_F(LogFileTest, FileThatDoesNotExistYetIsEmpty) {
  LogFile file = LogFile::Open(path_, 10).value();
  EXPECT_EQ(ReadAll(file), "");
  EXPECT_FALSE(file.Restarted().value());
  Append("first\n");
  EXPECT_FALSE(file.Restarted().value()) << "it begins, it does not begin again";
  EXPECT_EQ(ReadAll(file), "first\n");
}

TEST_F(LogFileTest, RefusesWhatIsNoFile) {
  EXPECT_THAT(LogFile::Open(testing::TempDir(), 1).status(),
              mi7::StatusIs(absl::StatusCode::kFailedPrecondition,
                            testing::HasSubstr("is no regular file")));
}

}  // namespace
}  // namespace log_tail
