#pragma once

// Times calls inside the client process: a warm-up, then a measured stretch whose edges it
// announces. Latencies go into memory that was allocated and touched before; nothing here
// allocates.
//
// Messages that nobody answers (streams) are sent in two portions, the warm-up and the measured
// one. Each is over only when the other side has confirmed all of it, so that what lies in buffers
// counts as what it is, not as arrived:
//
//   recorder.Begin();
//   do {
//     do {
//       stamp_ns = recorder.Issue();
//       ...  // send a message
//     } while (recorder.Sent(stamp_ns));
//     ...    // hear that all have arrived
//   } while (recorder.Confirm());

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "base/deadline.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

// Not thread-safe: one thread makes the calls.
class Recorder {
 public:
  // Told what the recorder is at; never inside the timed stretch.
  class Observer {
   public:
    // Everything is connected and the first call is about to be made. May block.
    virtual void OnStart() = 0;
    // Measuring begins.
    virtual void OnBegin() = 0;
    // It has ended.
    virtual void OnEnd() = 0;

   protected:
    ~Observer() = default;
  };

  // `latencies_ns` receives one latency a call (or one in 17, see Issue) until it is full.
  Recorder(const Workload& workload, std::span<uint32_t> latencies_ns, Observer* observer)
      : workload_(workload), latencies_(latencies_ns), observer_(observer) {}
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // Starts the warm-up; first of all, once.
  void Begin() {
    observer_->OnStart();
    last_ns_ = MonotonicNanos();
    edge_ns_ = last_ns_ + workload_.warmup_ns;
  }

  // One outstanding call: to be called after each; false when it was the last one. Costs one
  // reading of the clock, which ends this call's time and begins the next one's.
  bool Continue() {
    const int64_t now_ns = MonotonicNanos();
    if (measuring_) {
      ++calls_;
      Store(now_ns - last_ns_);
    }
    last_ns_ = now_ns;
    if (now_ns < edge_ns_) [[likely]]
      return true;
    return PassEdge();
  }

  // The same after `calls` of them, where reading the clock would cost as much as one. Latencies
  // are the mean of such a lot, in whole nanoseconds.
  bool ContinueAfter(int calls) {
    const int64_t now_ns = MonotonicNanos();
    if (measuring_) {
      calls_ += static_cast<uint64_t>(calls);
      Store((now_ns - last_ns_) / calls);
    }
    last_ns_ = now_ns;
    return now_ns < edge_ns_ || PassEdge();
  }

  // One outstanding call: its time begins only now. What was done since Continue is not counted.
  void Restart() { last_ns_ = MonotonicNanos(); }

  // Several outstanding: the stamp to give to Complete when the call now being sent is answered.
  // Reads the clock for one call in 17 only (a number that shares no factor with batch sizes), so
  // that measuring costs a pipelined call little; for every one that carries much.
  int64_t Issue() {
    if (--until_stamp_ != 0) [[likely]]
      return kNoStamp;
    until_stamp_ = stamp_every_;
    return MonotonicNanos();
  }

  // A call was answered; false when no further call is to be sent. Keeps answering false while the
  // remaining calls come in, and does not count them.
  bool Complete(int64_t stamp_ns) {
    if (done_) return false;
    ++calls_;
    if (stamp_ns == kNoStamp) [[likely]]
      return true;
    const int64_t now_ns = MonotonicNanos();
    if (measuring_) Store(now_ns - stamp_ns);
    if (now_ns < edge_ns_) [[likely]]
      return true;
    return PassEdge();
  }

  // A message of a stream was sent; false when no further one is to be sent before all are
  // confirmed. Latencies are those of sending, with the wait for room.
  bool Sent(int64_t stamp_ns) {
    ++calls_;
    if (stamp_ns == kNoStamp) [[likely]]
      return true;
    const int64_t now_ns = MonotonicNanos();
    if (measuring_) Store(now_ns - stamp_ns);
    return now_ns < edge_ns_;
  }

  // Everything sent has arrived. True: the warm-up is over, send on; false: all is over.
  bool Confirm() { return PassEdge(); }

  // After the last call: calls made in the measured stretch, its length, latencies stored.
  uint64_t calls() const { return calls_; }
  int64_t elapsed_ns() const { return elapsed_ns_; }
  int64_t begun_ns() const { return begin_ns_; }  // monotonic time
  size_t stored() const { return stored_; }
  bool done() const { return done_; }

 private:
  static constexpr int64_t kNoStamp = 0;
  static constexpr int kStampEvery = 17;
  static constexpr size_t kLargeBytes = 16 * 1024;

  void Store(int64_t latency_ns) {
    if (stored_ == latencies_.size()) return;
    constexpr int64_t kMax = std::numeric_limits<uint32_t>::max();
    latencies_[stored_++] = static_cast<uint32_t>(latency_ns < kMax ? latency_ns : kMax);
  }

  bool PassEdge() {
    if (!measuring_) {
      measuring_ = true;
      observer_->OnBegin();
      calls_ = 0;
      begin_ns_ = last_ns_ = MonotonicNanos();
      edge_ns_ = begin_ns_ + workload_.measure_ns;
      return true;
    }
    elapsed_ns_ = MonotonicNanos() - begin_ns_;
    done_ = true;
    observer_->OnEnd();
    return false;
  }

  const Workload workload_;
  const std::span<uint32_t> latencies_;
  Observer* const observer_;
  const int stamp_every_ = workload_.payload_bytes < kLargeBytes ? kStampEvery : 1;
  bool measuring_ = false;
  bool done_ = false;
  int until_stamp_ = 1;
  int64_t last_ns_ = 0;
  int64_t edge_ns_ = 0;
  int64_t begin_ns_ = 0;
  int64_t elapsed_ns_ = 0;
  uint64_t calls_ = 0;
  size_t stored_ = 0;
};

}  // namespace mi7::bench
