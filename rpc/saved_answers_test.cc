#include "rpc/saved_answers.h"

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

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

TEST_F(SavedAnswersTest, ThoseThatGiveUpLeaveTheirPlaces) {
  Make({});
  int calls[1 + SavedAnswers::kWaitersMax];
  const auto waiter = [&](size_t i) { return reinterpret_cast<ServerCall*>(&calls[i]); };
  ASSERT_EQ(Begin("a", 2000), Found::kNew);
  for (size_t i = 0; i < SavedAnswers::kWaitersMax; ++i) {
    ASSERT_EQ(saved_->Wait(*entry_, waiter(i), answer_), Waits::kYes);
  }
  for (size_t i = 1; i < SavedAnswers::kWaitersMax; ++i) {
    EXPECT_TRUE(saved_->StopWaiting(*entry_, waiter(i)));
    EXPECT_FALSE(saved_->StopWaiting(*entry_, waiter(i)));
  }
  EXPECT_EQ(saved_->Wait(*entry_, waiter(SavedAnswers::kWaitersMax), answer_), Waits::kYes);
  EXPECT_THAT(saved_->End(entry_, Answer(), false, 3000),
              ElementsAre(waiter(0), waiter(SavedAnswers::kWaitersMax)));
  EXPECT_FALSE(saved_->StopWaiting(*entry_, waiter(0))) << "it has been given back";
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
  // Those that run stay, and none is begun beyond the limit.
  for (const char* id : {"e", "f", "g"}) EXPECT_EQ(Begin(id, 3000), Found::kNew);
  EXPECT_EQ(Begin("h", 3000), Found::kTooManyRun);
  EXPECT_EQ(saved_->count(), 3u);
  EXPECT_EQ(saved_->known(), 7u);
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
  EXPECT_EQ(Begin("a", 3000), Found::kDropped);
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

TEST_F(SavedAnswersTest, CallWhoseAnswerWasDroppedIsKnownHoweverLateItsAttemptsAre) {
  Make({.answers_max = 1, .age_max = absl::Nanoseconds(1000)});
  Run("a", 2000, 2100);
  Run("b", 2200, 2300);
  // An attempt may say that it is the first: it was overtaken by the one that has run.
  EXPECT_EQ(Begin("a", 3100), Found::kDropped);
  EXPECT_EQ(Begin("a", 3100, /*sent_after_ns=*/1990), Found::kDropped);
  EXPECT_EQ(Begin("a", 3100, kNever, /*digest=*/2), Found::kDropped);
  EXPECT_EQ(saved_->count(), 1u);
  // Until it is too old. The other one, which is younger, is known further.
  EXPECT_EQ(Begin("a", 3101), Found::kNew);
  EXPECT_EQ(Begin("b", 3101), Found::kDropped);
}

TEST_F(SavedAnswersTest, CallsKnownAreBoundedAndNoneIsForgottenTooSoon) {
  Make({.answers_max = 2, .calls_known_max = 4, .late_max = absl::Nanoseconds(100)});
  for (const char* id : {"a", "b", "c", "d"}) Run(id, 2000, 2010);
  EXPECT_EQ(Begin("e", 2110), Found::kTooManyKnown);
  EXPECT_EQ(Begin("a", 2110), Found::kDropped);
  EXPECT_EQ(Begin("d", 2110), Found::kSaved);
  EXPECT_EQ(saved_->known(), 4u);
  EXPECT_EQ(Begin("e", 2111), Found::kNew);
  EXPECT_EQ(saved_->known(), 4u);
  EXPECT_EQ(saved_->count(), 2u);
  EXPECT_EQ(Begin("b", 2111), Found::kDropped);
  EXPECT_EQ(Begin("a", 2111, /*sent_after_ns=*/1990), Found::kForgotten);
}

TEST_F(SavedAnswersTest, NoneIsForgottenForThoseThatRun) {
  Make({.answers_max = 2, .calls_known_max = 1, .late_max = absl::ZeroDuration()});
  EXPECT_EQ(Begin("a", 2000), Found::kNew);
  EXPECT_EQ(Begin("b", 9000), Found::kTooManyKnown);
  EXPECT_EQ(Begin("a", 9000), Found::kRunning);
}

TEST_F(SavedAnswersTest, OldOnesAreForgottenAFewAtATime) {
  Make({.answers_max = 10, .age_max = absl::Nanoseconds(1000)});
  for (int i = 0; i < 40; ++i) Run(absl::StrCat(i), 2000, 2100);
  EXPECT_EQ(saved_->known(), 40u);
  size_t known = 40;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Begin(absl::StrCat("new ", i), 3101), Found::kNew);
    EXPECT_LT(saved_->known(), known);
    EXPECT_GT(saved_->known(), known > 20 ? known - 20 : 0);
    known = saved_->known();
  }
  EXPECT_EQ(known, 3u) << "those that run";
}

TEST_F(SavedAnswersTest, WhatMayBeAForgottenCallIsNotRun) {
  Make({.age_max = absl::Nanoseconds(1000), .late_max = absl::Nanoseconds(100)});
  Run("a", 2000, 2100);
  // An attempt at it was sent before 2100, and read 100 later at most.
  EXPECT_EQ(Begin("a", 3101, /*sent_after_ns=*/2200), Found::kForgotten);
  EXPECT_EQ(Begin("b", 3101, /*sent_after_ns=*/2201), Found::kNew);
}

}  // namespace
}  // namespace mi7
