#pragma once

// For tests of `-> stream` calls that are made again: what a server is sent, and what begins there.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/server.h"
#include "tests/conformance/call/feed_service.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::conformance {

inline FlowSending Pour(FeedStub& sink, uint64_t number, size_t bytes = 0,
                        const CallOptions& options = {}) {
  auto request = sink.Pour(options);
  FillItem(*request, number, bytes);
  return request.Send();
}

// The numbers of the calls of pour that have begun, in their order, by whichever server. Those that
// it is told to hold are answered by the test.
class Journal {
 public:
  struct Entry {
    uint64_t number;
    int attempt;
    bool whole;
    friend bool operator==(const Entry&, const Entry&) = default;
  };
  PourHandler Handler(size_t bytes = 0) {
    return [this, bytes](ServerContext& context, Item::Reader item) -> Reply {
      absl::MutexLock lock(&mutex_);
      begun_.push_back(
          {item.getNumber(), context.attempt(), IsItem(item, item.getNumber(), bytes)});
      if (!holds_) return answer_;
      held_.push_back(context.Defer());
      return Reply::Later();
    };
  }
  void Hold() {
    absl::MutexLock lock(&mutex_);
    holds_ = true;
  }
  // From now on those that begin are answered so, at once.
  void AnswerWith(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    holds_ = false;
    answer_ = status;
  }
  bool AwaitBegun(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return begun_.size() >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kSoon);
  }
  // The first `count` of those that are held, once there are so many.
  testing::AssertionResult Answer(size_t count) {
    std::vector<DeferredCall> calls;
    {
      absl::MutexLock lock(&mutex_);
      const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.size() >= count; };
      if (!mutex_.AwaitWithTimeout(absl::Condition(&there), kSoon)) {
        return testing::AssertionFailure() << held_.size() << " of " << count << " are held";
      }
      for (size_t i = 0; i < count; ++i) calls.push_back(std::move(held_[i]));
      held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(count));
    }
    for (DeferredCall& call : calls) call.Finish(absl::OkStatus());
    return testing::AssertionSuccess();
  }
  // What is held when a test has failed would be waited for.
  void AnswerAll() {
    std::vector<DeferredCall> calls;
    {
      absl::MutexLock lock(&mutex_);
      holds_ = false;
      calls.swap(held_);
    }
    for (DeferredCall& call : calls) call.Finish(absl::OkStatus());
  }
  std::vector<uint64_t> numbers() const {
    absl::MutexLock lock(&mutex_);
    std::vector<uint64_t> numbers;
    for (const Entry& entry : begun_) numbers.push_back(entry.number);
    return numbers;
  }
  std::vector<Entry> entries() const {
    absl::MutexLock lock(&mutex_);
    return begun_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<Entry> begun_ ABSL_GUARDED_BY(mutex_);
  std::vector<DeferredCall> held_ ABSL_GUARDED_BY(mutex_);
  bool holds_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status answer_ ABSL_GUARDED_BY(mutex_);
};

// Each once and in order, from 0 on.
inline testing::AssertionResult IsSeries(const std::vector<uint64_t>& numbers, uint64_t count) {
  for (uint64_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] != i) {
      return testing::AssertionFailure() << "number " << numbers[i] << " at place " << i;
    }
  }
  if (numbers.size() == count) return testing::AssertionSuccess();
  return testing::AssertionFailure() << numbers.size() << " of " << count;
}

inline ServerOptions WithLoad(uint32_t calls_max) {
  ServerOptions options;
  options.load.calls_max = calls_max;
  options.load.retry_after = absl::Milliseconds(20);
  return options;
}

inline CallOptions Attempts(int most) {
  CallOptions options;
  options.retry = std::make_shared<const RetryPolicy>(RetryPolicy{.attempts_max = most});
  return options;
}

inline bool AwaitRefused(const Server& server, uint64_t count) {
  const Deadline patience = Deadline::After(kSoon);
  while (server.load().refused < count) {
    if (patience.passed()) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace mi7::conformance
