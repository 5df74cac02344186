#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"

ABSL_FLAG(int, answer, 0, "Set by the test.");

namespace {

TEST(AbseilTest, StatusAndStrings) {
  absl::StatusOr<int> result = absl::NotFoundError(absl::StrCat("no ", 7));
  EXPECT_EQ(result.status().ToString(), "NOT_FOUND: no 7");
}

TEST(AbseilTest, Containers) {
  absl::flat_hash_map<std::string, int> hash = {{"a", 1}};
  absl::btree_map<int, int> tree = {{2, 3}};
  absl::InlinedVector<int, 4> vector = {4, 5};
  EXPECT_EQ(hash["a"] + tree[2] + absl::MakeSpan(vector)[1], 9);
}

TEST(AbseilTest, SynchronizationTimeAndCallables) {
  absl::Notification notification;
  absl::AnyInvocable<void()> notify = [&] { notification.Notify(); };
  notify();
  EXPECT_TRUE(notification.WaitForNotificationWithTimeout(absl::Seconds(1)));
  absl::Mutex mutex;
  absl::MutexLock lock(&mutex);
  EXPECT_GT(absl::Now(), absl::UnixEpoch());
}

TEST(AbseilTest, Flags) {
  char program[] = "test", flag[] = "--answer=42", rest[] = "rest";
  char* argv[] = {program, flag, rest};
  std::vector<char*> positional = absl::ParseCommandLine(3, argv);
  EXPECT_EQ(absl::GetFlag(FLAGS_answer), 42);
  EXPECT_EQ(positional.size(), 2u);
}

}  // namespace
