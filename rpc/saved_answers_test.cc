#include "rpc/saved_answers.h"

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mi7 {
namespace {

using Found = SavedAnswers::Found;
using Waits = SavedAnswers::Waits;
using testing::ElementsAre;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

std::shared_ptr<const SavedAnswer> Answer(size_t words = 0) {
  auto answer = std::make_shared<SavedAnswer>();
  answer->words.resize(words);
  return answer;
}

class SavedAnswersTest : public testing::Test {
 protected:
  void Make(const DeduplicationOptions& options, int64_t began_ns = 1000) {
    saved_ = std::make_unique<SavedAnswers>(options, began_ns);
  }
  Found Begin(const std::string& id, int64_t now_ns, int64_t sent_after_ns = kNever,
              uint64_t digest = 1) {
    answer_ = nullptr;
    return saved_->Begin({.request_id = id,
                          .service_key = 1,
                          .interface_id = 2,
                          .method_id = 3,
                          .digest = digest,
                          .sent_after_ns = sent_after_ns},
                         now_ns, entry_, answer_);
  }
  // A call that runs from `began_ns` to `ended_ns`.
  void Run(const std::string& id, int64_t began_ns, int64_t ended_ns, size_t words = 0) {
    ASSERT_EQ(Begin(id, began_ns), Found::kNew);
    saved_->End(entry_, Answer(words), /*nothing_done=*/false, ended_ns);
  }

  std::unique_ptr<SavedAnswers> saved_;
  std::shared_ptr<SavedAnswers::Entry> entry_;
  std::shared_ptr<const SavedAnswer> answer_;
};

TEST_F(SavedAnswersTest, IdAndMethodAndParametersMakeACall) {
  Make({});
  Run("a", 2000, 2100);
  EXPECT_EQ(Begin("a", 3000), Found::kSaved);
  EXPECT_NE(answer_, nullptr);
  EXPECT_EQ(Begin("a", 3000, kNever, /*digest=*/2), Found::kOtherParams);
  EXPECT_EQ(Begin("b", 3000), Found::kNew);
  // Another method, interface or service: another call.
  for (int which = 0; which < 3; ++which) {
    const SavedAnswers::Call other = {.request_id = "a",
                                      .service_key = which == 0 ? 9u : 1u,
                                      .interface_id = which == 1 ? 9u : 2u,
                                      .method_id = static_cast<uint16_t>(which == 2 ? 9 : 3),
                                      .digest = 1,
                                      .sent_after_ns = kNever};
    EXPECT_EQ(saved_->Begin(other, 3000, entry_, answer_), Found::kNew) << which;
  }
}

TEST_F(SavedAnswersTest, ThoseThatWaitAreGivenBack) {
  Make({});
  int calls[2 + SavedAnswers::kWaitersMax];
  const auto waiter = [&](size_t i) { return reinterpret_cast<ServerCall*>(&calls[i]); };
  ASSERT_EQ(Begin("a", 2000), Found::kNew);
  const auto running = entry_;
  ASSERT_EQ(Begin("a", 2001), Found::kRunning);
  EXPECT_EQ(entry_, running);
  EXPECT_EQ(saved_->Wait(*running, waiter(0), answer_), Waits::kYes);
  EXPECT_EQ(saved_->Wait(*running, waiter(1), answer_), Waits::kYes);
  EXPECT_THAT(saved_->End(running, Answer(), false, 3000), ElementsAre(waiter(0), waiter(1)));
  EXPECT_EQ(saved_->Wait(*running, waiter(2), answer_), Waits::kEnded);
  EXPECT_NE(answer_, nullptr);
  // Not too many.
  ASSERT_EQ(Begin("b", 4000), Found::kNew);
  for (size_t i = 0; i < SavedAnswers::kWaitersMax; ++i) {
    EXPECT_EQ(saved_->Wait(*entry_, waiter(i), answer_), Waits::kYes);
  }
  EXPECT_EQ(saved_->Wait(*entry_, waiter(SavedAnswers::kWaitersMax), answer_), Waits::kTooMany);
}

TEST_F(SavedAnswersTest, CallThatHasDoneNothingIsNewAgain) {
  Make({});
  ASSERT_EQ(Begin("a", 2000), Found::kNew);
  saved_->End(entry_, Answer(), /*nothing_done=*/true, 2100);
  EXPECT_EQ(saved_->count(), 0u);
  EXPECT_EQ(Begin("a", 2200, /*sent_after_ns=*/1900), Found::kNew);
}

TEST_F(SavedAnswersTest, NumberIsBoundedAndTheOldestGo) {
  Make({.answers_max = 3});
  for (const char* id : {"a", "b", "c", "d"}) Run(id, 2000, 2100);
  EXPECT_EQ(saved_->count(), 3u);
  EXPECT_EQ(Begin("b", 3000), Found::kSaved);
  EXPECT_EQ(Begin("a", 3000), Found::kNew);
  // Those that run stay, and none is begun beyond the limit.
  EXPECT_EQ(Begin("e", 3000), Found::kNew);
  EXPECT_EQ(Begin("f", 3000), Found::kNew);
  EXPECT_EQ(Begin("g", 3000), Found::kFull);
  EXPECT_EQ(saved_->count(), 3u);
}

TEST_F(SavedAnswersTest, BytesAreBounded) {
  Make({.answer_bytes_max = 10'000});
  Run("a", 2000, 2100, 500);
  Run("b", 2000, 2100, 500);
  EXPECT_LE(saved_->bytes(), 10'000u);
  EXPECT_GT(saved_->bytes(), 8000u);
  Run("c", 2000, 2100, 500);
  EXPECT_LE(saved_->bytes(), 10'000u);
  EXPECT_EQ(Begin("b", 3000), Found::kSaved);
  EXPECT_EQ(Begin("a", 3000, /*sent_after_ns=*/1999), Found::kForgotten);
  // One that is too large leaves the others, and a note that it has run.
  Run("large", 4000, 4100, 5000);
  EXPECT_EQ(Begin("b", 5000), Found::kSaved);
  ASSERT_EQ(Begin("large", 5000), Found::kSaved);
  EXPECT_TRUE(answer_->too_large);
  EXPECT_TRUE(answer_->words.empty());
}

TEST_F(SavedAnswersTest, AnswersAreKeptSoLongAfterTheEnd) {
  Make({.age_max = absl::Nanoseconds(1000)});
  Run("a", 2000, 5000);
  EXPECT_EQ(Begin("a", 6000), Found::kSaved);
  EXPECT_EQ(Begin("a", 6001), Found::kNew);
}

TEST_F(SavedAnswersTest, WhatWasSentBeforeTheServerBeganMayHaveRun) {
  Make({}, /*began_ns=*/1000);
  EXPECT_EQ(Begin("a", 2000, /*sent_after_ns=*/999), Found::kForgotten);
  EXPECT_EQ(Begin("a", 2000, /*sent_after_ns=*/1000), Found::kForgotten);
  EXPECT_EQ(Begin("a", 2000, /*sent_after_ns=*/1001), Found::kNew);
}

TEST_F(SavedAnswersTest, WhatWasSentBeforeADroppedCallBeganMayBeThat) {
  Make({.answers_max = 1});
  Run("a", 2000, 2100);
  Run("b", 3000, 3100);
  EXPECT_EQ(Begin("a", 4000, /*sent_after_ns=*/1990), Found::kForgotten);
  // It cannot have been one that began before it was sent.
  EXPECT_EQ(Begin("c", 4000, /*sent_after_ns=*/2001), Found::kNew);
}

}  // namespace
}  // namespace mi7
