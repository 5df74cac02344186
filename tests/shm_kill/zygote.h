#pragma once

// Processes that tests kill: each is forked from a process that has no threads (the zygote), which
// was itself forked before the test had any. So starting one takes a fraction of a millisecond, and
// forking is safe whatever the test does meanwhile.

#include <sys/types.h>

#include <cstdint>
#include <functional>

namespace mi7::shm_kill {

// What a process is started for; the test says what the fields mean.
struct Order {
  uint32_t role = 0;
  uint32_t variant = 0;
  uint64_t number = 0;
};

inline constexpr uint32_t kRecordChanges = 1;

// How far a stepped process came.
struct Stepped {
  uint64_t instructions = 0;
  bool over = false;  // it reached the end of what is stepped through
  bool well = false;  // it was stopped or killed by us, not ended by itself
};

// Not thread-safe.
class Zygote {
 public:
  // Forks the zygote. `live` runs in each process that is started, and its return ends the process.
  // When the test ends, however it ends, so do they all.
  explicit Zygote(std::function<void(const Order&)> live);
  ~Zygote();
  Zygote(const Zygote&) = delete;
  Zygote& operator=(const Zygote&) = delete;

  pid_t Start(const Order& order);
  // Waits for the end of a process that was started, or that one of those left; the status of
  // waitpid.
  int Reap(pid_t process);
  // SIGKILL, then Reap.
  int Kill(pid_t process);

  // Starts a process, lets it run until it calls StepFromHere, and kills it with SIGKILL after
  // `instructions` more of that thread, or when it calls StepToHere. The first ones of a role are
  // stepped through; later ones run to where that one was after so many instructions. One with
  // order.variant == kRecordChanges is stepped through in any case, and writes Changes.
  Stepped Step(const Order& order, uint64_t instructions);
  // Whether the system permits tracing. Where not, a NOTICE is printed; aborts where it should be
  // permitted (TracingIsPermitted).
  bool CanTrace();

  // In a process that is stepped, on the thread that is.
  static void StepFromHere();
  // The end of the window.
  static void StepToHere();

 private:
  pid_t zygote_ = -1;
  int socket_ = -1;
};

}  // namespace mi7::shm_kill
