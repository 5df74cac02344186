#include "channels/select.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>

#include "base/check.h"
#include "transport/slot_pipe/event.h"
#include "transport/slot_pipe/pipe_poll.h"
#include "transport/spin_budget.h"

namespace mi7::channels_internal {
namespace {

using slot_pipe_internal::kLookAgainNs;
using slot_pipe_internal::PipePoll;
using Pipes = absl::InlinedVector<PipePoll*, 4>;

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

// What futex_waitv takes at most; further pipes are looked at when the others' sleep ends.
constexpr size_t kWordsMax = FUTEX_WAITV_MAX;
// Bound of a sleep on a system without futex_waitv (before Linux 5.16, or filtered), where pipes
// are looked at now and then; and of one beside a pipe that seemed to have something and had not.
constexpr int64_t kShortSleepNs = 1'000'000;

// Of this thread, for where to begin: a start that follows a pattern could meet one in its caller.
uint32_t Random() {
  static thread_local uint32_t state = static_cast<uint32_t>(MonotonicNanos()) | 1;
  state ^= state << 13;  // George Marsaglia, "Xorshift RNGs" (2003)
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}

const absl::Status& NothingReadyError() {
  static const auto* const status =
      new absl::Status(absl::StatusCode::kUnavailable, "nothing could be done at once");
  return *status;
}

const absl::Status& AllClosedError() {
  static const auto* const status =
      new absl::Status(absl::StatusCode::kCancelled, "everything that was waited for is closed");
  return *status;
}

// What became of an attempt at all cases.
struct Attempted {
  Outcome outcome;  // kClosed: all that counts are
  Case* which = nullptr;
};

Attempted AttemptAll(absl::Span<Case* const> cases, Wait* wait) {
  const size_t count = cases.size();
  bool open = false;
  const size_t start = count == 0 ? 0 : Random() % count;
  for (size_t i = 0; i < count; ++i) {
    const size_t index = start + i < count ? start + i : start + i - count;
    Case* const one = cases[index];
    const Outcome outcome = one->Attempt(wait, static_cast<int>(index));
    if (outcome == Outcome::kNotYet) {
      open = open || one->counts();
    } else if (outcome != Outcome::kClosed) {
      return {outcome, one};
    }
  }
  return {open ? Outcome::kNotYet : Outcome::kClosed};
}

void LeaveAll(absl::Span<Case* const> cases) {
  for (Case* const one : cases) one->Leave();
}

Deadline FirstDeadline(absl::Span<Case* const> cases) {
  Deadline first = Deadline::Infinite();
  for (const Case* const one : cases) first = std::min(first, one->deadline());
  return first;
}

// Sleeps while nobody finishes `wait` and the words of `pipes` are what they were, for `timeout_ns`
// at most. The waiter has announced its sleep.
void SleepOnAll(ThreadWait& wait, const Pipes& pipes, const uint32_t* tickets, int64_t timeout_ns) {
  futex_waitv words[kWordsMax] = {};
  const size_t count = std::min(pipes.size() + 1, kWordsMax);
  words[0].uaddr = reinterpret_cast<uint64_t>(&wait.done().word());
  words[0].val = transport::Completion::kAsleep;
  words[0].flags = FUTEX_32 | FUTEX_PRIVATE_FLAG;
  for (size_t i = 1; i < count; ++i) {
    words[i].uaddr = reinterpret_cast<uint64_t>(&pipes[i - 1]->word());
    words[i].val = tickets[i - 1];
    words[i].flags = FUTEX_32;  // shared with other processes
  }
  const int64_t until_ns = MonotonicNanos() + timeout_ns;
  const timespec until{static_cast<time_t>(until_ns / 1'000'000'000),
                       static_cast<long>(until_ns % 1'000'000'000)};
  // Filters of containers that do not know it say EPERM.
  if (::syscall(SYS_futex_waitv, words, count, 0, &until, CLOCK_MONOTONIC) < 0 &&
      (errno == ENOSYS || errno == EPERM)) {
    const timespec brief{0, static_cast<long>(std::min(timeout_ns, kShortSleepNs))};
    ::syscall(SYS_futex, &wait.done().word(), FUTEX_WAIT_PRIVATE, transport::Completion::kAsleep,
              &brief, nullptr, 0);
  }
}

// As ThreadWait::Await, and ends when one of `pipes` seems to have something, too. `in_vain`: that
// was so the last time, and it had not; set when it is so this time.
int AwaitWithPipes(ThreadWait& wait, Deadline deadline, const Pipes& pipes, bool& in_vain) {
  const auto any = [&pipes] {
    return std::any_of(pipes.begin(), pipes.end(),
                       [](const PipePoll* pipe) { return pipe->MayHave() || pipe->cancelled(); });
  };
  static thread_local transport::SpinBudget budget;
  const int64_t start_ns = MonotonicNanos();
  const int64_t left_ns = deadline.remaining_ns();
  const int64_t budget_ns = in_vain ? 0 : std::min(budget.Begin(), left_ns);
  bool found = false;
  for (uint32_t polls = 1; budget_ns != 0 && !wait.done().done(); ++polls) {
    found = any();
    if (found || (polls % 32 == 0 && MonotonicNanos() - start_ns > budget_ns)) break;
    if (polls > 64) {
      ::sched_yield();
    } else {
      transport::CpuPause();
    }
  }
  if (!found && left_ns > 0) {
    absl::InlinedVector<uint32_t, 4> tickets;
    for (PipePoll* const pipe : pipes) tickets.push_back(pipe->Declare());
    found = !in_vain && any();
    if (!found && wait.done().AnnounceSleep()) {
      SleepOnAll(wait, pipes, tickets.data(),
                 std::min(left_ns, in_vain ? kShortSleepNs : kLookAgainNs));
      wait.done().EndSleep();
    }
  }
  if (!in_vain) budget.End(budget_ns, MonotonicNanos() - start_ns);
  in_vain = found;
  return wait.End(Wait::kLookAgain);
}

}  // namespace

// --- of threads

absl::Status SelectAmong(absl::Span<Case* const> cases, bool wait) {
  Pipes pipes;
  bool waited = false;
  bool in_vain = false;
  const auto run = [&](Case* which) {
    if (waited) {
      for (PipePoll* const pipe : pipes) pipe->PassOn();
    }
    which->Run();
    return absl::OkStatus();
  };
  for (;;) {
    Attempted attempted = AttemptAll(cases, nullptr);
    if (attempted.outcome == Outcome::kDone) return run(attempted.which);
    if (attempted.outcome == Outcome::kFailed) return attempted.which->error();
    if (attempted.outcome == Outcome::kClosed) return AllClosedError();
    if (!wait) return NothingReadyError();

    ThreadWait thread_wait;
    attempted = AttemptAll(cases, &thread_wait);
    int outcome = Wait::kLookAgain;
    if (attempted.outcome != Outcome::kDone) {
      pipes.clear();
      for (Case* const one : cases) {
        if (one->poll() != nullptr) pipes.push_back(one->poll());
      }
      if (attempted.outcome == Outcome::kClosed) {
        outcome = thread_wait.End(Wait::kLookAgain);
      } else if (pipes.empty()) {
        outcome = thread_wait.Await(FirstDeadline(cases));
      } else {
        outcome = AwaitWithPipes(thread_wait, FirstDeadline(cases), pipes, in_vain);
      }
    }
    LeaveAll(cases);
    waited = true;
    if (attempted.outcome == Outcome::kDone) return run(attempted.which);
    if (outcome >= 0) return run(cases[static_cast<size_t>(outcome)]);
  }
}

// --- of coroutines

SelectAwaiter::SelectAwaiter(transport::EventLoop* loop, Cases cases)
    : loop_(loop), cases_(std::move(cases)) {
  for (Case* const one : cases_) {
    MI7_CHECK(!one->needs_thread(), "a coroutine waits for a slot pipe by an AsyncSlotPipe");
  }
}

SelectAwaiter::~SelectAwaiter() {
  if (wait_ == nullptr) return;
  wait_->Abandon();
  LeaveAll(cases_);
  for (Case* const one : cases_) one->Undo();
}

bool SelectAwaiter::TryAll() {
  const Attempted attempted = AttemptAll(cases_, nullptr);
  switch (attempted.outcome) {
    case Outcome::kDone:
      done_ = attempted.which;
      return true;
    case Outcome::kFailed:
      status_ = attempted.which->error();
      return true;
    case Outcome::kClosed:
      status_ = AllClosedError();
      return true;
    case Outcome::kNotYet:
    case Outcome::kLost:
      break;
  }
  return false;
}

bool SelectAwaiter::TakeOutcome() {
  LeaveAll(cases_);
  const int outcome = std::exchange(wait_, nullptr)->outcome();
  if (outcome >= 0) done_ = cases_[static_cast<size_t>(outcome)];
  return done_ != nullptr || TryAll();
}

bool SelectAwaiter::WaitForAll() {
  for (;;) {
    wait_ = std::make_shared<CoroutineWait>(loop_, static_cast<Suspended*>(this));
    const std::shared_ptr<CoroutineWait> wait = wait_;
    const Attempted attempted = AttemptAll(cases_, wait.get());
    if (attempted.outcome == Outcome::kDone) {
      done_ = attempted.which;
      LeaveAll(cases_);
      wait_ = nullptr;
      return false;
    }
    if (attempted.outcome != Outcome::kClosed) {
      wait->EndAt(FirstDeadline(cases_));
      if (wait->Suspend()) return true;
    }
    if (TakeOutcome()) return false;
  }
}

void SelectAwaiter::OnFinished() {
  if (TakeOutcome() || !WaitForAll()) coroutine_.resume();
}

absl::Status SelectAwaiter::await_resume() {
  if (done_ == nullptr) return status_;
  done_->Run();
  return absl::OkStatus();
}

}  // namespace mi7::channels_internal
