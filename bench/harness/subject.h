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
// The bench starts the program twice, once to serve and once to call, each at its own CPU
// placement, fresh for every round.

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "bench/harness/recorder.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

// Used by one thread.
class Subject {
 public:
  virtual ~Subject() = default;

  // In the server process: listens on a free port of 127.0.0.1, calls `ready` once with the address
  // clients shall use, and serves until the process is killed. Returns only an error.
  virtual absl::Status Serve(const Workload& workload,
                             const std::function<void(const std::string& address)>& ready) = 0;

  // In the client process: opens one connection to `address`, begins `recorder`, and keeps
  // `workload.outstanding` calls in flight until it says that no more are wanted. Answers must be
  // checked: a wrong one is an error, not a fast call.
  virtual absl::Status MakeCalls(const std::string& address, const Workload& workload,
                                 Recorder& recorder) = 0;

  // In the client process: opens `count` more connections to `address`, makes one call on each, and
  // keeps them open and idle for the rest of the process. UNIMPLEMENTED where the figure would mean
  // nothing.
  virtual absl::Status OpenIdleConnections(const std::string& address, int count) = 0;
};

// The main() of a subject's program: does what the command line (written by the bench) says and
// returns the exit status.
int RunSubject(int argc, char** argv, Subject& subject);

}  // namespace mi7::bench
