#include "transport/local_options.h"

#include <gtest/gtest.h>

namespace mi7::transport {
namespace {

void ExpectWrong(const LocalOptions& options, const std::string& why) {
  const absl::Status status = CheckLocalOptions(options);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), why);
}

TEST(LocalOptionsTest, DefaultsAreSound) {
  EXPECT_EQ(CheckLocalOptions({}), absl::OkStatus());
  EXPECT_EQ(CheckLocalOptions(*DefaultLocalOptions()), absl::OkStatus());
}

TEST(LocalOptionsTest, WhatIsWrongIsNamed) {
  LocalOptions options;
  options.runtime_dir = "run";
  ExpectWrong(options, "local.runtime_dir is 'run', must be an absolute path");
  options = {};
  options.socket_mode = 04600;
  ExpectWrong(options, "local.socket_mode is 4600, must be permissions of at most 0777");
  options = {};
  options.shm.slot_classes.clear();
  ExpectWrong(options, "local.shm.slot_classes has 0 entries, must have 1 to 6");
}

TEST(LocalOptionsTest, DefaultOnesAreShared) {
  EXPECT_EQ(ShareLocalOptions({}), DefaultLocalOptions());
  LocalOptions options;
  options.shared_memory = false;
  EXPECT_NE(ShareLocalOptions(options), DefaultLocalOptions());
  EXPECT_EQ(*ShareLocalOptions(options), options);
  options = {};
  options.peers.users = {1};
  EXPECT_NE(ShareLocalOptions(options), DefaultLocalOptions());
}

}  // namespace
}  // namespace mi7::transport
