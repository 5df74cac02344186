// Coroutines that produce: a scheduler holds empty slots and hands them to workers, which fill and
// send them. Ends after --messages, or cleanly on SIGINT and SIGTERM: what a worker has is sent.

#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "base/detached_task.h"
#include "channels/channel.h"
#include "transport/event_loop.h"
#include "transport/slot_pipe/async_slot_pipe.h"
#include "transport/slot_pipe/slot_pipe.h"

ABSL_FLAG(std::string, pipe, "async-example", "name of the slot pipe; made when there is none");
ABSL_FLAG(uint64_t, messages, 1000, "messages to send; 0: until interrupted");
ABSL_FLAG(int, workers, 3, "coroutines that fill slots");

namespace {

using mi7::DetachedTask;
using mi7::channels::Receiver;
using mi7::channels::Sender;

mi7::SlotPipe* the_pipe = nullptr;  // for the signal handler; set once

// Ends the wait for an empty slot, and by that the scheduler, and by that everybody.
void OnSignal(int) { the_pipe->Cancel(); }

DetachedTask Schedule(mi7::SlotPipe& pipe, mi7::AsyncSlotPipe& async, Sender<mi7::SlotRef> work,
                      uint64_t messages) {
  for (uint64_t i = 0; (messages == 0 || i < messages) && !pipe.cancelled(); ++i) {
    auto slot = co_await async.Hold();
    if (!slot.ok()) {
      if (!absl::IsCancelled(slot.status())) std::cerr << slot.status() << "\n";
      break;
    }
    pipe.MarkInProgress(slot->ref()).IgnoreError();  // only to be seen in the status
    if (!work.Send(slot->Detach()).ok()) break;
  }
}  // no more work: its sender was the only one

// `ended` says that it has ended by going.
DetachedTask Work(mi7::SlotPipe& pipe, mi7::transport::EventLoop* loop, Receiver<mi7::SlotRef> work,
                  int worker, uint64_t& sent, [[maybe_unused]] Sender<bool> ended) {
  for (;;) {
    const absl::StatusOr<mi7::SlotRef> ref = co_await work.ReceiveOn(loop);
    if (!ref.ok()) break;
    auto slot = pipe.Writing(*ref);
    if (!slot.ok()) {
      std::cerr << slot.status() << "\n";
      continue;
    }
    const int length = std::snprintf(reinterpret_cast<char*>(slot->data()), slot->span().size(),
                                     "process %d message %llu worker %d", ::getpid(),
                                     static_cast<unsigned long long>(sent), worker);
    if (absl::Status status = slot->Send(static_cast<size_t>(length)); !status.ok()) {
      std::cerr << status << "\n";
      continue;
    }
    ++sent;
  }
}

}  // namespace

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  auto pipe = mi7::SlotPipe::OpenOrCreate(absl::GetFlag(FLAGS_pipe), mi7::PipeOptions::Small());
  auto loop = mi7::transport::EventLoop::Create({});
  for (const absl::Status& status : {pipe.status(), loop.status()}) {
    if (status.ok()) continue;
    std::cerr << "async_producer: " << status << "\n";
    return 1;
  }
  the_pipe = pipe->get();
  struct sigaction action {};
  action.sa_handler = &OnSignal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);

  mi7::AsyncSlotPipe async(pipe->get(), loop->get());
  // Unbounded, because the pipe bounds how many slots there are to hand on.
  auto [work_sender, work] = mi7::channels::Unbounded<mi7::SlotRef>();
  auto [ended, all_ended] = mi7::channels::Unbounded<bool>();
  uint64_t sent = 0;  // the loop's thread counts
  const int workers = std::max(1, absl::GetFlag(FLAGS_workers));
  (*loop)->Post(
      [&, to = std::move(work_sender), from = std::move(work), end = std::move(ended)]() mutable {
        for (int worker = 0; worker < workers; ++worker) {
          Work(**pipe, loop->get(), from, worker, sent, end);
        }
        Schedule(**pipe, async, std::move(to), absl::GetFlag(FLAGS_messages));
      });
  std::cout << "producing" << std::endl;
  all_ended.Receive().IgnoreError();  // until it is closed, because all workers have ended
  std::cout << "sent " << sent << std::endl;
  // The pipe goes with this function: a further signal ends the process.
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
}
