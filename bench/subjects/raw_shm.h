#pragma once

// Subjects "raw_shm" and "raw_eventfd": what two processes that share memory cannot beat.
//
// * One outstanding, spinning: a line of 64 bytes in either direction, of which 4 are the signal
//   and 56 travel with it. Each side fills its line, then changes the signal; the other one looks
//   at that word until it changes, copies the 56 bytes, and answers.
// * One outstanding, blocking: the same, but each side sleeps on the other's signal: in a futex, or
//   in `raw_eventfd` by reading an eventfd. Nobody looks before it sleeps, everybody wakes.
// * Many outstanding, spinning: a ring of such lines in either direction. Nobody counts how far the
//   other has read: an answer says so.
// * kTouched (one outstanding): the caller writes every word of the payload where it is shared, the
//   server reads every word in place and answers with their sum.
// * kEcho of 64 bytes: they do not fit into the line, so each side has two: a signal and, on the
//   line behind it, the bytes.
// * kStream of 64 bytes: a ring of such pairs, one way only; the signal says of each whether it is
//   full, so that either side finds out by looking at it. A portion is over when all are empty.

#include <functional>
#include <string>

#include "bench/harness/subject.h"

namespace mi7::bench {

class RawShm final : public Subject {
 public:
  // How it sleeps when it is to block.
  enum class Sleeping { kFutex, kEventfd };
  explicit RawShm(Sleeping sleeping) : sleeping_(sleeping) {}

  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override;
  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override;

 private:
  const Sleeping sleeping_;
};

}  // namespace mi7::bench
