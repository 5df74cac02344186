#pragma once

// A subject is what is measured: mi7, a peer, or the bare system calls that nothing built on them
// can beat. Each subject is a program of its own, so that one that cannot be built or is not
// installed takes nothing else with it; its main() is one call of RunSubject.
//
//   int main(int argc, char** argv) {
//     mi7::bench::MySubject subject;
//     return mi7::bench::RunSubject(argc, argv, subject);
//   }
//
// The bench starts the program at least twice, once to serve and once to call, each at its own CPU
// placement, fresh for every round.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "bench/harness/recorder.h"
#include "bench/harness/result.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

// Used by one thread. What a subject cannot do it answers with UNIMPLEMENTED or INVALID_ARGUMENT
// and a reason for people.
class Subject {
 public:
  virtual ~Subject() = default;

  // In the server process: listens on a free port of 127.0.0.1 (or as workload.transport says),
  // calls `ready` once with the address clients shall use, and serves until the process is killed.
  // Returns only an error.
  virtual absl::Status Serve(const Workload& workload,
                             const std::function<void(const std::string& address)>& ready) = 0;

  // In one more server process: serves together with the one that is at `address`, and calls
  // `ready` once it does. Returns only an error.
  virtual absl::Status Join(const std::string& address, const Workload& workload,
                            const std::function<void()>& ready);

  // In the client process: opens a connection to `address`, or workload.connections of them, begins
  // `recorder`, and keeps `workload.outstanding` calls in flight on each until it says that no more
  // are wanted. Answers must be checked: a wrong one is an error, not a fast call.
  virtual absl::Status MakeCalls(const std::string& address, const Workload& workload,
                                 Recorder& recorder) = 0;

  // The same from as many threads as there are recorders, on one connection.
  virtual absl::Status MakeCallsInThreads(const std::string& address, const Workload& workload,
                                          std::span<const std::unique_ptr<Recorder>> recorders);

  // In the client process: opens `count` more connections to `address`, makes one call on each, and
  // keeps them open and idle for the rest of the process.
  virtual absl::Status OpenIdleConnections(const std::string& address, int count);

  // Where a server that takes messages of several processes counts them; set by RunSubject.
  void CountServedIn(std::atomic<uint64_t>* served) { served_ = served; }

 protected:
  // Relaxed: a count, read when all is over.
  void CountServed() { served_->fetch_add(1, std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> not_asked_for_ = 0;
  std::atomic<uint64_t>* served_ = &not_asked_for_;
};

// Calls `make_calls` for each of the recorders, each on a thread of its own. OK, or the first of
// the failures in the recorders' order.
absl::Status InThreads(std::span<const std::unique_ptr<Recorder>> recorders,
                       const std::function<absl::Status(Recorder&)>& make_calls);

// Set by a program that counts (subjects/counting.cc): tells it where to count to. Null otherwise.
using CountIn = void (*)(Counts* counts);
extern CountIn count_in;

// The main() of a subject's program: does what the command line (written by the bench) says and
// returns the exit status.
int RunSubject(int argc, char** argv, Subject& subject);

}  // namespace mi7::bench
