// Coroutines that consume: a listener fetches messages and hands their slots to workers, which read
// and release them. Ends after --messages, when none has come for --idle_ms, or cleanly on
// SIGINT and SIGTERM: what was fetched is worked off, what was not stays in the pipe.

#include <signal.h>

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/time/time.h"
#include "examples/async_producer/hand_off.h"
#include "transport/event_loop.h"
#include "transport/slot_pipe/async_slot_pipe.h"
#include "transport/slot_pipe/slot_pipe.h"

ABSL_FLAG(std::string, pipe, "async-example", "name of the slot pipe; made when there is none");
ABSL_FLAG(uint64_t, messages, 0, "messages to receive; 0: until interrupted or idle");
ABSL_FLAG(int, idle_ms, 0, "milliseconds without a message after which to end; 0: never");
ABSL_FLAG(int, workers, 3, "coroutines that read messages");
ABSL_FLAG(bool, print, false, "print each message");

namespace {

mi7::SlotPipe* the_pipe = nullptr;  // for the signal handler; set once

void OnSignal(int) { the_pipe->Cancel(); }

Started Listen(mi7::SlotPipe& pipe, mi7::AsyncSlotPipe& async, HandOff<mi7::SlotRef>& work,
               uint64_t messages, int idle_ms, Ended& ended) {
  for (uint64_t i = 0; (messages == 0 || i < messages) && !pipe.cancelled(); ++i) {
    auto message =
        co_await async.Fetch(idle_ms == 0 ? mi7::Deadline::Infinite()
                                          : mi7::Deadline::After(absl::Milliseconds(idle_ms)));
    if (!message.ok()) {
      if (!absl::IsCancelled(message.status()) && !absl::IsDeadlineExceeded(message.status())) {
        std::cerr << message.status() << "\n";
      }
      break;
    }
    pipe.MarkInProgress(message->ref()).IgnoreError();  // only to be seen in the status
    work.Push(message->Detach());
  }
  work.Close();
  ended.Add();
}

Started Work(mi7::SlotPipe& pipe, HandOff<mi7::SlotRef>& work, bool print, uint64_t& received,
             Ended& ended) {
  for (;;) {
    const std::optional<mi7::SlotRef> ref = co_await work.Pop();
    if (!ref.has_value()) break;
    auto message = pipe.Reading(*ref);
    if (!message.ok()) {
      std::cerr << message.status() << "\n";
      continue;
    }
    if (print) std::cout << message->text() << "\n";
    if (absl::Status status = message->Release(); !status.ok()) {
      std::cerr << status << "\n";
      continue;
    }
    ++received;
  }
  ended.Add();
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
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);

  mi7::AsyncSlotPipe async(pipe->get(), loop->get());
  HandOff<mi7::SlotRef> work(loop->get());
  Ended ended;
  uint64_t received = 0;  // the loop's thread counts
  const int workers = std::max(1, absl::GetFlag(FLAGS_workers));
  (*loop)->Post([&] {
    for (int i = 0; i < workers; ++i) {
      Work(**pipe, work, absl::GetFlag(FLAGS_print), received, ended);
    }
    Listen(**pipe, async, work, absl::GetFlag(FLAGS_messages), absl::GetFlag(FLAGS_idle_ms), ended);
  });
  std::cout << "consuming" << std::endl;
  ended.WaitFor(workers + 1);
  std::cout << "received " << received << std::endl;
}
