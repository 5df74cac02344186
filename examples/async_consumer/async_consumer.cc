// Coroutines that consume: a listener fetches messages and hands their slots to workers, which read
// and release them. Ends after --messages, when none has come for --idle_ms, or cleanly on
// SIGINT and SIGTERM: what was fetched is worked off, what was not stays in the pipe. So does what
// cannot be printed.

#include <signal.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/time/time.h"
#include "base/detached_task.h"
#include "channels/channel.h"
#include "transport/event_loop.h"
#include "transport/slot_pipe/async_slot_pipe.h"
#include "transport/slot_pipe/slot_pipe.h"

ABSL_FLAG(std::string, pipe, "async-example", "name of the slot pipe; made when there is none");
ABSL_FLAG(uint64_t, messages, 0, "messages to receive; 0: until interrupted or idle");
ABSL_FLAG(int, idle_ms, 0, "milliseconds without a message after which to end; 0: never");
ABSL_FLAG(int, workers, 3, "coroutines that read messages");
ABSL_FLAG(bool, print, false, "print each message");

namespace {

using mi7::DetachedTask;
using mi7::channels::Receiver;
using mi7::channels::Sender;

mi7::SlotPipe* the_pipe = nullptr;  // for the signal handler; set once

void OnSignal(int) { the_pipe->Cancel(); }

DetachedTask Listen(mi7::SlotPipe& pipe, mi7::AsyncSlotPipe& async, Sender<mi7::SlotRef> work,
                    uint64_t messages, int idle_ms) {
  constexpr int kLostMax = 100;
  int lost = 0;
  for (uint64_t i = 0; (messages == 0 || i < messages) && !pipe.cancelled(); ++i) {
    auto message =
        co_await async.Fetch(idle_ms == 0 ? mi7::Deadline::Infinite()
                                          : mi7::Deadline::After(absl::Milliseconds(idle_ms)));
    if (!message.ok()) {
      if (absl::IsCancelled(message.status()) || absl::IsDeadlineExceeded(message.status())) break;
      std::cerr << message.status() << "\n";
      // That of one message, which is among the dead letters now; or of the pipe, for ever.
      if (absl::IsDataLoss(message.status()) && ++lost <= kLostMax) continue;
      break;
    }
    pipe.MarkInProgress(message->ref()).IgnoreError();  // only to be seen in the status
    if (!work.Send(message->Detach()).ok()) break;
  }
}  // no more work: its sender was the only one

// What the loop's thread counts, and main() reads when all workers have ended.
struct Outcome {
  uint64_t received = 0;
  bool printed = true;  // all that was to be
};

// `ended` says that it has ended by going.
DetachedTask Work(mi7::SlotPipe& pipe, mi7::transport::EventLoop* loop, Receiver<mi7::SlotRef> work,
                  bool print, Outcome& outcome, [[maybe_unused]] Sender<bool> ended) {
  for (;;) {
    const absl::StatusOr<mi7::SlotRef> ref = co_await work.ReceiveOn(loop);
    if (!ref.ok()) break;
    auto message = pipe.Reading(*ref);
    if (!message.ok()) {
      std::cerr << message.status() << "\n";
      continue;
    }
    // On its way out of this process before it is out of the pipe.
    if (print && !(std::cout << message->text() << std::endl)) {
      outcome.printed = false;
      pipe.Cancel();  // fetch no more; what this and other workers have goes back
      continue;
    }
    if (absl::Status status = message->Release(); !status.ok()) {
      std::cerr << status << "\n";
      continue;
    }
    ++outcome.received;
  }
}

}  // namespace

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  auto pipe = mi7::SlotPipe::OpenOrCreate(absl::GetFlag(FLAGS_pipe), mi7::PipeOptions::Small());
  auto loop = mi7::transport::EventLoop::Create({});
  for (const absl::Status& status : {pipe.status(), loop.status()}) {
    if (status.ok()) continue;
    std::cerr << "async_consumer: " << status << "\n";
    return 1;
  }
  the_pipe = pipe->get();
  struct sigaction action {};
  action.sa_handler = &OnSignal;
  action.sa_flags = SA_RESTART;  // it fails no print that waits
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);

  mi7::AsyncSlotPipe async(pipe->get(), loop->get());
  // Unbounded, because the pipe bounds how many slots there are to hand on.
  auto [work_sender, work] = mi7::channels::Unbounded<mi7::SlotRef>();
  auto [ended, all_ended] = mi7::channels::Unbounded<bool>();
  Outcome outcome;
  const int workers = std::max(1, absl::GetFlag(FLAGS_workers));
  std::cout << "consuming" << std::endl;  // before others print
  (*loop)->Post(
      [&, to = std::move(work_sender), from = std::move(work), end = std::move(ended)]() mutable {
        for (int i = 0; i < workers; ++i) {
          Work(**pipe, loop->get(), from, absl::GetFlag(FLAGS_print), outcome, end);
        }
        Listen(**pipe, async, std::move(to), absl::GetFlag(FLAGS_messages),
               absl::GetFlag(FLAGS_idle_ms));
      });
  all_ended.Receive().IgnoreError();  // until it is closed, because all workers have ended
  std::cout << "received " << outcome.received << std::endl;
  // The pipe goes with this function: a further signal ends the process.
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  if (outcome.printed && std::cout) return 0;
  std::cerr << "async_consumer: cannot write to the standard output\n";
  return 1;
}
