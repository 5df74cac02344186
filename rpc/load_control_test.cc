#include "rpc/load_control.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fake_clock.h"
#include "rpc/retry_info.h"
#include "rpc/status_testing.h"

namespace mi7 {
namespace {

constexpr MethodInfo kGet = {.interface_id = 1, .method_id = 0, .name = "Store.get"};
constexpr MethodInfo kScan = {.interface_id = 1, .method_id = 1, .name = "Store.scan"};
constexpr MethodInfo kHealth = {
    .interface_id = 1, .method_id = 2, .name = "Store.health", .priority = Priority::kControl};

const MethodInfo* Named(absl::string_view name) {
  for (const MethodInfo* method : {&kGet, &kScan, &kHealth}) {
    if (name == method->name) return method;
  }
  return nullptr;
}

class LoadControlTest : public testing::Test {
 protected:
  void Make(const LoadLimits& limits) {
    ASSERT_THAT(CheckLoadLimits(limits), IsOk());
    auto made = LoadControl::Create(limits, Named);
    ASSERT_THAT(made, IsOk());
    control_ = *std::move(made);
  }
  absl::Status Admit(const MethodInfo* method, uint64_t bytes = 100,
                     std::atomic<uint64_t>* connection = nullptr) {
    LoadControl::Share share;
    absl::Status admitted = control_->Admit(
        method, bytes, connection != nullptr ? *connection : connection_bytes_, share);
    if (admitted.ok()) shares_.push_back(std::move(share));
    return admitted;
  }
  void ExpectNothingInFlight() {
    const LoadFigures figures = control_->figures();
    EXPECT_EQ(figures.calls, 0u);
    EXPECT_EQ(figures.control_calls, 0u);
    EXPECT_EQ(figures.bytes, 0u);
    EXPECT_EQ(connection_bytes_, 0u);
  }
  std::unique_ptr<LoadControl> control_;
  std::atomic<uint64_t> connection_bytes_{0};
  std::vector<LoadControl::Share> shares_;
};

TEST_F(LoadControlTest, CallsBeyondTheServersLimitAreRefusedWithAdvice) {
  Make({.calls_max = 2, .retry_after = absl::Milliseconds(70)});
  EXPECT_THAT(Admit(&kGet), IsOk());
  EXPECT_THAT(Admit(nullptr), IsOk());  // a method that there is not takes room as any other
  const absl::Status refused = Admit(&kScan);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                "server is overloaded: load.calls_max is 2"));
  EXPECT_EQ(RetryAfter(refused), absl::Milliseconds(70));
  EXPECT_EQ(control_->retry_after(), absl::Milliseconds(70));
  EXPECT_EQ(control_->figures().calls, 2u);
  EXPECT_EQ(control_->figures().refused, 1u);
  shares_.pop_back();
  EXPECT_THAT(Admit(&kScan), IsOk());
  shares_.clear();
  ExpectNothingInFlight();
}

TEST_F(LoadControlTest, OneMethodHasItsOwnLimit) {
  Make({.methods = {{"Store.scan", 1}}});
  EXPECT_THAT(Admit(&kScan), IsOk());
  EXPECT_THAT(Admit(&kScan),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "server is overloaded: load.methods calls_max of Store.scan is 1"));
  for (int i = 0; i < 10; ++i) EXPECT_THAT(Admit(&kGet), IsOk());
  EXPECT_EQ(control_->figures().calls, 11u) << "what was refused is given back";
  shares_.clear();
  ExpectNothingInFlight();
  EXPECT_THAT(Admit(&kScan), IsOk());
}

TEST_F(LoadControlTest, OneMethodHasItsOwnLimitOfBytes) {
  Make({.methods = {{.method = "Store.scan", .bytes_max = 1000},
                    {.method = "Store.health", .calls_max = 2, .bytes_max = 1000}},
        .retry_after = absl::Milliseconds(70)});
  std::atomic<uint64_t> other{0};
  EXPECT_THAT(Admit(&kScan, 600), IsOk());
  EXPECT_THAT(Admit(&kScan, 400, &other), IsOk());
  const absl::Status refused = Admit(&kScan, 1, &other);
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "server is overloaded: load.methods bytes_max of Store.scan is 1000"));
  EXPECT_EQ(RetryAfter(refused), absl::Milliseconds(70));
  EXPECT_THAT(Admit(&kGet, 5000), IsOk()) << "not its method";
  EXPECT_EQ(control_->figures().calls, 3u) << "what was refused is given back";
  EXPECT_EQ(control_->figures().bytes, 6000u);
  EXPECT_THAT(Admit(&kHealth, 800), IsOk());
  EXPECT_THAT(Admit(&kHealth, 201), StatusIs(absl::StatusCode::kResourceExhausted,
                                             testing::HasSubstr("bytes_max of Store.health")));
  EXPECT_THAT(Admit(&kHealth, 200), IsOk()) << "the call before was not counted";
  EXPECT_THAT(Admit(&kHealth, 0), StatusIs(absl::StatusCode::kResourceExhausted,
                                           testing::HasSubstr("calls_max of Store.health")));
  shares_.clear();
  ExpectNothingInFlight();
  EXPECT_EQ(other, 0u);
  EXPECT_THAT(Admit(&kScan, 5000), IsOk()) << "alone, whatever its size";
  EXPECT_THAT(Admit(&kScan, 1), StatusIs(absl::StatusCode::kResourceExhausted));
  shares_.clear();
  ExpectNothingInFlight();
}

TEST_F(LoadControlTest, BytesOfAMethodAreGivenBackWhenAnotherLimitRefuses) {
  Make({.connection_bytes_max = 500, .methods = {{.method = "Store.scan", .bytes_max = 600}}});
  std::atomic<uint64_t> other{0};
  EXPECT_THAT(Admit(&kScan, 400), IsOk());
  EXPECT_THAT(Admit(&kScan, 200), StatusIs(absl::StatusCode::kResourceExhausted,
                                           testing::HasSubstr("connection_bytes_max")));
  EXPECT_THAT(Admit(&kScan, 200, &other), IsOk());
}

TEST_F(LoadControlTest, BytesAreLimitedInTheServerAndByConnection) {
  Make({.bytes_max = 1000, .connection_bytes_max = 600});
  std::atomic<uint64_t> other{0};
  EXPECT_THAT(Admit(&kGet, 500), IsOk());
  EXPECT_THAT(Admit(&kGet, 101),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "server is overloaded: load.connection_bytes_max is 600"));
  EXPECT_THAT(Admit(&kGet, 100), IsOk());
  EXPECT_THAT(Admit(&kGet, 401, &other), StatusIs(absl::StatusCode::kResourceExhausted,
                                                  "server is overloaded: load.bytes_max is 1000"));
  EXPECT_EQ(other, 0u);
  EXPECT_THAT(Admit(&kGet, 400, &other), IsOk());
  EXPECT_EQ(control_->figures().bytes, 1000u);
  EXPECT_EQ(connection_bytes_, 600u);
  shares_.clear();
  ExpectNothingInFlight();
  EXPECT_EQ(other, 0u);
}

TEST_F(LoadControlTest, OneRequestLargerThanTheLimitIsTakenAlone) {
  Make({.bytes_max = 1000});
  EXPECT_THAT(Admit(&kGet, 5000), IsOk());
  EXPECT_THAT(Admit(&kGet, 1), StatusIs(absl::StatusCode::kResourceExhausted));
  shares_.clear();
  EXPECT_THAT(Admit(&kGet, 1), IsOk());
  EXPECT_THAT(Admit(&kGet, 5000), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(LoadControlTest, ControlCallsHaveRoomOfTheirOwn) {
  Make(
      {.calls_max = 1, .bytes_max = 100, .control_methods = {"Store.get"}, .control_calls_max = 2});
  EXPECT_TRUE(control_->IsControl(&kHealth));
  EXPECT_TRUE(control_->IsControl(&kGet));
  EXPECT_FALSE(control_->IsControl(&kScan));
  EXPECT_FALSE(control_->IsControl(nullptr));
  EXPECT_THAT(Admit(&kScan, 100), IsOk());
  EXPECT_THAT(Admit(&kScan, 100), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(Admit(&kHealth), IsOk());
  EXPECT_THAT(Admit(&kGet), IsOk());
  EXPECT_THAT(Admit(&kHealth), StatusIs(absl::StatusCode::kResourceExhausted,
                                        "server is overloaded: load.control_calls_max is 2"));
  EXPECT_EQ(control_->figures().control_calls, 2u);
  shares_.clear();
  ExpectNothingInFlight();
}

TEST_F(LoadControlTest, SharesAreGivenBackOnceHoweverTheyAreMoved) {
  Make({.calls_max = 10, .methods = {{"Store.get", 5}}});
  {
    LoadControl::Share first, second;
    ASSERT_THAT(control_->Admit(&kGet, 8, connection_bytes_, first), IsOk());
    ASSERT_THAT(control_->Admit(&kGet, 8, connection_bytes_, second), IsOk());
    LoadControl::Share moved = std::move(first);
    EXPECT_EQ(control_->figures().calls, 2u);
    moved = std::move(second);
    EXPECT_EQ(control_->figures().calls, 1u);
    moved.Release(true);
    moved.Release(true);
    ExpectNothingInFlight();
  }
  ExpectNothingInFlight();
}

TEST_F(LoadControlTest, AdaptiveLimitRefuses) {
  LoadLimits limits;
  limits.adaptive = {.enabled = true, .calls_initial = 3, .calls_min = 2, .calls_max = 100};
  Make(limits);
  EXPECT_EQ(control_->figures().adaptive_limit, 3u);
  for (int i = 0; i < 3; ++i) ASSERT_THAT(Admit(&kGet), IsOk());
  const absl::Status refused = Admit(&kGet);
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted,
                                "server is overloaded: over its adaptive limit of calls"));
  EXPECT_TRUE(RetryAfter(refused).has_value());
  EXPECT_THAT(Admit(&kHealth), IsOk());
  for (auto& share : shares_) share.Release(true);
  ExpectNothingInFlight();
}

TEST_F(LoadControlTest, StreamsThatStayLeaveTheAdaptiveLimitToCalls) {
  constexpr MethodInfo kWatch = {.interface_id = 1,
                                 .method_id = 3,
                                 .name = "Store.watch",
                                 .kind = MethodKind::kServerStreaming};
  LoadLimits limits;
  limits.adaptive = {.enabled = true, .calls_initial = 3, .calls_min = 2, .calls_max = 100};
  Make(limits);
  for (int i = 0; i < 10; ++i) ASSERT_THAT(Admit(&kWatch), IsOk());
  for (int i = 0; i < 3; ++i) ASSERT_THAT(Admit(&kGet), IsOk());
  EXPECT_THAT(Admit(&kGet), StatusIs(absl::StatusCode::kResourceExhausted));
  shares_.pop_back();
  EXPECT_THAT(Admit(&kGet), IsOk());
  shares_.clear();
  ExpectNothingInFlight();
}

TEST_F(LoadControlTest, WhereAllCallsStayOneAtATimeComesInBeyondTheAdaptiveLimit) {
  FakeClock clock;
  LoadLimits limits;
  // Its patience is a minute.
  limits.adaptive = {.enabled = true,
                     .calls_initial = 3,
                     .calls_min = 2,
                     .calls_max = 5,
                     .window = absl::Seconds(6)};
  limits.methods = {{"Store.scan", 1}};
  Make(limits);
  const auto refused = StatusIs(absl::StatusCode::kResourceExhausted,
                                "server is overloaded: over its adaptive limit of calls");
  clock.Advance(absl::Minutes(2));
  EXPECT_THAT(Admit(&kScan), IsOk());
  for (int i = 0; i < 2; ++i) ASSERT_THAT(Admit(&kGet), IsOk());
  EXPECT_THAT(Admit(&kGet), refused) << "it begins here, however long it had nothing to do";
  clock.Advance(absl::Seconds(30));
  EXPECT_THAT(Admit(&kGet), refused);
  clock.Advance(absl::Seconds(31));
  EXPECT_THAT(Admit(&kScan), StatusIs(absl::StatusCode::kResourceExhausted,
                                      testing::HasSubstr("calls_max of Store.scan")));
  EXPECT_THAT(Admit(&kGet), IsOk()) << "what its method's limit refused has taken nobody's place";
  EXPECT_THAT(Admit(&kGet), refused) << "one at a time";
  shares_.pop_back();
  EXPECT_THAT(Admit(&kGet), IsOk()) << "the next one, however that one ended";
  EXPECT_THAT(Admit(&kGet), refused);
  clock.Advance(absl::Seconds(61));
  EXPECT_THAT(Admit(&kGet), IsOk()) << "the one before stays, too";
  EXPECT_EQ(control_->figures().calls, 5u);
  clock.Advance(absl::Seconds(61));
  EXPECT_THAT(Admit(&kGet), refused) << "calls_max";
  while (shares_.size() > 2) shares_.pop_back();
  EXPECT_THAT(Admit(&kGet), IsOk());
  EXPECT_THAT(Admit(&kGet), refused) << "it had room";
  EXPECT_THAT(Admit(&kGet), refused);
  shares_.clear();
  ExpectNothingInFlight();
}

// A server of whose calls 60 run at a time, each for `work_ms`, and the others wait.
TEST_F(LoadControlTest, CallsThatStayThroughAnOverloadDoNotKeepOthersOut) {
  FakeClock clock;
  LoadLimits limits;
  limits.adaptive.enabled = true;
  Make(limits);
  struct Running {
    int64_t ends_ms;
    LoadControl::Share share;
  };
  std::deque<Running> running;
  std::vector<int64_t> free_ms(60, 0);
  int64_t now_ms = 0;
  const auto run = [&](int seconds, int work_ms) {
    int admitted = 0;
    for (const int64_t until_ms = now_ms + 1000 * seconds; now_ms < until_ms; now_ms += 5) {
      clock.Advance(absl::Milliseconds(5));
      while (!running.empty() && running.front().ends_ms <= now_ms) {
        running.front().share.Release(/*succeeded=*/true);
        running.pop_front();
      }
      for (int i = 0; i < 40; ++i) {
        LoadControl::Share share;
        if (!control_->Admit(&kGet, 0, connection_bytes_, share).ok()) break;
        ++admitted;
        const auto first_free = std::min_element(free_ms.begin(), free_ms.end());
        *first_free = std::max(*first_free, now_ms) + work_ms;
        running.push_back({*first_free, std::move(share)});
      }
    }
    return admitted;
  };
  EXPECT_GT(run(15, 10), 10'000);
  for (int i = 0; i < 20; ++i) {
    running.pop_front();  // room for one
    ASSERT_THAT(Admit(&kGet), IsOk());
  }
  run(30, 60);
  EXPECT_LE(control_->figures().adaptive_limit, 20u);
  run(15, 10);
  EXPECT_GT(run(5, 10), 10'000);
}

TEST_F(LoadControlTest, ManyThreadsNeverExceedTheLimitAndLoseNothing) {
  Make({.calls_max = 3, .bytes_max = 250});
  std::atomic<int> inside{0};
  std::atomic<int> admitted{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      std::atomic<uint64_t> own{0};
      for (int call = 0; call < 5000; ++call) {
        LoadControl::Share share;
        if (!control_->Admit(&kGet, 100, own, share).ok()) continue;
        EXPECT_LE(inside.fetch_add(1) + 1, 2) << "of 100 bytes each";
        ++admitted;
        inside.fetch_sub(1);
      }
      EXPECT_EQ(own, 0u);
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectNothingInFlight();
  EXPECT_GT(admitted, 0);
  EXPECT_EQ(control_->figures().refused, 20'000u - static_cast<uint64_t>(admitted));
}

TEST_F(LoadControlTest, MethodsThatThereAreNotAreNamed) {
  EXPECT_THAT(LoadControl::Create({.methods = {{"Store.scann", 1}}}, Named),
              StatusIs(absl::StatusCode::kNotFound,
                       "load.methods names Store.scann, which no service of this server has"));
  EXPECT_THAT(LoadControl::Create({.control_methods = {"health"}}, Named),
              StatusIs(absl::StatusCode::kNotFound));
  for (const MethodLoadLimit& second :
       {MethodLoadLimit{"Store.get", 2}, MethodLoadLimit{"Store.get", 0, 2}}) {
    EXPECT_THAT(LoadControl::Create({.methods = {{"Store.get", 0, 1}, second}}, Named),
                StatusIs(absl::StatusCode::kInvalidArgument, "load.methods names Store.get twice"));
  }
}

TEST_F(LoadControlTest, SenselessLimitsAreNamed) {
  const auto adaptive = [](auto change) {
    LoadLimits limits;
    limits.adaptive.enabled = true;
    change(limits.adaptive);
    return CheckLoadLimits(limits);
  };
  EXPECT_THAT(CheckLoadLimits({}), IsOk());
  EXPECT_FALSE(LoadLimits().any());
  EXPECT_THAT(CheckLoadLimits({.methods = {{"Store.get"}}}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "load.methods calls_max and bytes_max of Store.get is 0, one must be at "
                       "least 1"));
  EXPECT_THAT(CheckLoadLimits({.methods = {{"Store.get", 1}, {"Store.scan", 0, 1}}}), IsOk());
  EXPECT_THAT(CheckLoadLimits({.calls_max = 1, .control_calls_max = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(CheckLoadLimits({.retry_after = -absl::Seconds(1)}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(adaptive([](AdaptiveLimit&) {}), IsOk());
  EXPECT_THAT(adaptive([](AdaptiveLimit& limit) { limit.calls_min = 0; }),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(adaptive([](AdaptiveLimit& limit) { limit.calls_initial = 5000; }),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(adaptive([](AdaptiveLimit& limit) { limit.tolerance = 0.5; }),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(adaptive([](AdaptiveLimit& limit) { limit.smoothing = 0; }),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(adaptive([](AdaptiveLimit& limit) { limit.window = absl::ZeroDuration(); }),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace mi7
