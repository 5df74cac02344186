// A death after every instruction of OpenOrCreate where there is no pipe yet: what is left is
// nothing, or a complete pipe, and who comes next has a pipe.

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "base/check.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/crash/ledger.h"
#include "transport/slot_pipe/crash/scenarios.h"
#include "transport/slot_pipe/crash/stepper.h"
#include "transport/slot_pipe/testing.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr char kCopy[] = "copy";

class CreateTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!CanTrace()) GTEST_SKIP();
    // Once here, so that the child need not bind each function that it calls.
    Make();
    Forget();
  }

  static void Make() {
    const auto pipe = SlotPipe::OpenOrCreate(kPipe, kOptions);
    MI7_CHECK(pipe.ok(), "a pipe can be made");
  }

  // The directory of the pipes, too, is made anew.
  void Forget() { std::filesystem::remove_all(directory_.path() + "/pipes"); }

  std::string Bytes(const char* name) const {
    std::ifstream file(directory_.File(name), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  // What is wrong with a pipe whose file has these bytes, all of whose participants are dead.
  std::string AuditCopy(const std::string& bytes) {
    std::ofstream(directory_.File(kCopy), std::ios::binary) << bytes;
    ::chmod(directory_.File(kCopy).c_str(), 0600);
    auto pipe = SlotPipe::OpenOrCreate(kCopy, kOptions);
    const std::string wrong =
        pipe.ok() ? Audit(**pipe, nothing_sent_, Other::kDead) : pipe.status().ToString();
    SlotPipe::Remove(kCopy, true).IgnoreError();
    return wrong;
  }

  TestDirectory directory_;
  const Ledger nothing_sent_ = {};
};

TEST_F(CreateTest, WhoeverDiesInItLeavesNothingOrACompletePipe) {
  std::string last;
  uint64_t named = 0;  // the instruction with which it got its name
  uint64_t audits = 0;
  const uint64_t steps = StepChild(&Make, [&](uint64_t step) {
    const std::vector<std::string> files = directory_.Files();
    if (files.empty() && named == 0) return true;
    if (named == 0) named = step;
    EXPECT_EQ(absl::StrJoin(files, " "), kPipe) << "after instruction " << step;
    const std::string bytes = Bytes(kPipe);
    if (bytes == last || HasFailure()) return !HasFailure();
    last = bytes;
    ++audits;
    EXPECT_EQ(AuditCopy(bytes), "") << "after instruction " << step;
    return !HasFailure();
  });
  ASSERT_FALSE(HasFailure());
  EXPECT_GT(named, 0u);
  EXPECT_GT(audits, 3u) << "joining and leaving change the pipe";

  // What has no name vanishes with the dead one: so some are killed for real, one of them at the
  // instruction that gives the name.
  const uint64_t kills = ::getenv("MI7_LONG") != nullptr ? 100 : 4;
  for (uint64_t i = 0; i <= kills; ++i) {
    Forget();
    const uint64_t death = steps * i / (kills + 1);
    const std::string path = directory_.File(kPipe);
    StepChild(&Make, [&](uint64_t step) {
      return i == 0 ? ::access(path.c_str(), F_OK) != 0 : step < death;
    });
    SCOPED_TRACE(death);
    const std::string left = absl::StrJoin(directory_.Files(), " ");
    EXPECT_TRUE(left == kPipe || (left.empty() && i != 0)) << left;
    auto pipe = SlotPipe::OpenOrCreate(kPipe, kOptions);
    ASSERT_TRUE(pipe.ok()) << pipe.status();
    ASSERT_EQ(Audit(**pipe, nothing_sent_, Other::kDead), "");
  }
  std::cout << "RELIABILITY: deaths after " << steps << " instructions of creating a pipe, "
            << audits << " states audited, " << kills + 1 << " killed for real: no file left\n";
}

}  // namespace
}  // namespace mi7::slot_pipe_internal
