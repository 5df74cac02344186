#pragma once

// StopSignals: SIGINT and SIGTERM as something to wait for, so that a program ends where it wants
// to.
//
//   int main() {
//     const examples::StopSignals stop;       // before there is a second thread
//     ... start a server ...
//     stop.Wait();
//     ... shut it down ...

#include <thread>

#include "absl/functional/any_invocable.h"

namespace examples {

// From now on the two signals interrupt nothing in this thread and those that it starts, and
// writing to a pipe that nobody reads is an error instead of the program's end: so for what waits
// for it and looks at what its writing returns. Thread-safe.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Until one of them has come.
  void Wait() const;
  // Readable, for poll(), once one of them has come. Not to be read from.
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Calls `callback` once one of the signals has come, on a thread of its own; or never, if it is
// destroyed before.
class OnStop {
 public:
  // `signals` outlives it.
  OnStop(const StopSignals& signals, absl::AnyInvocable<void()> callback);
  // Waits for a callback that is running.
  ~OnStop();
  OnStop(const OnStop&) = delete;
  OnStop& operator=(const OnStop&) = delete;

 private:
  const int over_fd_;
  std::thread thread_;
};

}  // namespace examples
