// Whoever waits is woken. Each sleep ends by itself after 40 ms (event.h), so a wake that is
// missing is seen in nothing but the time.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/sleep_watch_testing.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

using slot_pipe_internal::Doomed;
using slot_pipe_internal::TestDirectory;

class WakeTest : public testing::Test {
 protected:
  // Where nobody polls.
  static std::unique_ptr<SlotPipe> Create(const std::string& name, const PipeOptions& options) {
    return SlotPipe::Create(name, options, {.wait = transport::WaitPolicy::kBlock}).value();
  }

  // Two threads hand three slots round, each of a pipe of its own: one lets go of a slot that the
  // other one waits for, which then lets go of the one that the first waits for by then. Nobody
  // takes what it has let go of itself, because the other one has three steps until then. A round
  // is two wakes, or without them 40 ms.
  template <typename Begin, typename Take, typename LetGo>
  void HandRound(Begin begin, Take take, LetGo let_go) {
    constexpr size_t kRounds = 500;
    const Deadline deadline = Deadline::After(absl::Seconds(10));
    std::unique_ptr<SlotPipe> pipes[3];
    for (auto& pipe : pipes) {
      pipe = Create(absl::StrCat("pipe", &pipe - pipes),
                    {.slots = 1, .slot_bytes = 64, .attempts_max = 0});
    }
    using Slots = std::deque<decltype(begin(*pipes[0]))>;
    const auto let_first_go = [&](Slots& slots) {
      let_go(*slots.front());
      slots.pop_front();
    };
    Slots mine;
    Slots others;
    mine.push_back(begin(*pipes[0]));
    mine.push_back(begin(*pipes[1]));
    others.push_back(begin(*pipes[2]));
    std::thread other([&] {
      for (size_t round = 0; round < kRounds && others.back().ok(); ++round) {
        others.push_back(take(*pipes[round % 3], deadline));
        let_first_go(others);
      }
    });
    for (size_t round = 0; round < kRounds && mine.back().ok(); ++round) {
      let_first_go(mine);
      mine.push_back(take(*pipes[(round + 2) % 3], deadline));
    }
    other.join();
    EXPECT_TRUE(mine.back().ok()) << mine.back().status();
    EXPECT_TRUE(others.back().ok()) << others.back().status();
  }

  // In each round a thread that sleeps in `wait` is to go on soon after `act`, most times at least:
  // this machine may have something else to do. `before` comes before both.
  template <typename Before, typename Wait, typename Act>
  void ExpectWoken(Before before, Wait wait, Act act) {
    constexpr int kRounds = 40;
    constexpr int64_t kSoonNs = 20'000'000;
    int woken = 0;
    for (int round = 0; round < kRounds; ++round) {
      before();
      SleepWatch watch;
      std::thread thread([&] {
        watch.AboutToSleep();
        wait();
      });
      EXPECT_TRUE(watch.Await());
      const int64_t start_ns = MonotonicNanos();
      act();
      thread.join();
      if (MonotonicNanos() - start_ns < kSoonNs) ++woken;
    }
    EXPECT_GE(woken, kRounds / 2);
  }

  TestDirectory directory_;
};

// --- by who sends, and who lets go of a slot

absl::StatusOr<WriteSlot> Held(SlotPipe& pipe) { return pipe.TryHold(); }
absl::StatusOr<ReadSlot> Fetched(SlotPipe& pipe) {
  EXPECT_TRUE(pipe.TrySendBytes("x").ok());
  return pipe.TryFetch();
}

TEST_F(WakeTest, BySend) {
  const auto take = [](SlotPipe& pipe, Deadline deadline) -> absl::StatusOr<WriteSlot> {
    auto message = pipe.Fetch(deadline);
    if (!message.ok()) return message.status();
    EXPECT_TRUE(message->Release().ok());
    return pipe.TryHold();
  };
  HandRound(&Held, take, [](WriteSlot& slot) { EXPECT_TRUE(slot.Send(0).ok()); });
}

TEST_F(WakeTest, ByGiveBack) {
  const auto take = [](SlotPipe& pipe, Deadline deadline) { return pipe.Hold(deadline); };
  HandRound(&Held, take, [](WriteSlot& slot) { EXPECT_TRUE(slot.GiveBack().ok()); });
}

TEST_F(WakeTest, ByRelease) {
  const auto take = [](SlotPipe& pipe, Deadline deadline) -> absl::StatusOr<ReadSlot> {
    auto slot = pipe.Hold(deadline);
    if (!slot.ok()) return slot.status();
    EXPECT_TRUE(slot->Send(0).ok());
    return pipe.TryFetch();
  };
  HandRound(&Fetched, take, [](ReadSlot& slot) { EXPECT_TRUE(slot.Release().ok()); });
}

TEST_F(WakeTest, ByReturn) {
  const auto take = [](SlotPipe& pipe, Deadline deadline) { return pipe.Fetch(deadline); };
  HandRound(&Fetched, take, [](ReadSlot& slot) { EXPECT_TRUE(slot.Return().ok()); });
}

// --- by who brings back what others had

constexpr PipeOptions kOfTwo{.slots = 1, .slot_bytes = 64, .participants = 2};

// Has the only slot until it is killed.
std::unique_ptr<Doomed> StartHolding() {
  auto holding = std::make_unique<Doomed>([] {
    auto own = SlotPipe::Connect("pipe");
    return own.ok() && own->release()->TryHold()->Detach().word != 0;
  });
  EXPECT_TRUE(holding->ready());
  return holding;
}

TEST_F(WakeTest, ByRecover) {
  auto pipe = Create("pipe", {.slots = 1, .slot_bytes = 64});
  auto recoverer = SlotPipe::Connect("pipe").value();
  std::unique_ptr<Doomed> holding;
  ExpectWoken([&] { holding = StartHolding(); }, [&] { EXPECT_TRUE(pipe->Hold().ok()); },
              [&] {
                holding->Kill();
                recoverer->Recover();
              });
}

TEST_F(WakeTest, ByWhoTakesThePlaceOfADeadOne) {
  auto pipe = Create("pipe", kOfTwo);
  std::unique_ptr<Doomed> holding;
  std::unique_ptr<SlotPipe> joined;
  ExpectWoken(
      [&] {
        joined.reset();
        holding = StartHolding();
      },
      [&] { EXPECT_TRUE(pipe->Hold().ok()); },
      [&] {
        holding->Kill();
        joined = SlotPipe::Connect("pipe").value();
      });
}

TEST_F(WakeTest, ByWhoLeaves) {
  auto pipe = Create("pipe", kOfTwo);
  std::unique_ptr<SlotPipe> other;
  ExpectWoken(
      [&] {
        other = SlotPipe::Connect("pipe").value();
        other->TryHold()->Detach();
      },
      [&] { EXPECT_TRUE(pipe->Hold().ok()); }, [&] { other.reset(); });
}

}  // namespace
}  // namespace mi7
