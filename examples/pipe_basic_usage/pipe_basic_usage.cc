// The slot pipe from its beginning to its end, in one process: send and receive, the life of a slot
// through its states, errors and what to do about them, redelivery, dead letters, statistics.

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "transport/slot_pipe/slot_pipe.h"

namespace {

// Ends the program when something fails that must not.
void Need(const absl::Status& status) {
  if (status.ok()) return;
  std::cerr << "pipe_basic_usage: " << status << "\n";
  std::exit(1);
}
template <typename T>
T Need(absl::StatusOr<T> result) {
  Need(result.status());
  return *std::move(result);
}

void ShowStates(const mi7::SlotPipe& pipe) {
  std::cout << "  slots:";
  for (uint32_t slot = 0; slot < pipe.slots(); ++slot) {
    std::cout << " " << mi7::SlotStateName(Need(pipe.StateOf(slot)));
  }
  std::cout << "\n";
}

void SendAndReceive(mi7::SlotPipe& pipe) {
  std::cout << "== Send and receive\n";
  // Written where it is read: no byte is copied on the way.
  mi7::WriteSlot slot = Need(pipe.Hold());
  const int length = std::snprintf(reinterpret_cast<char*>(slot.data()), slot.span().size(),
                                   "The answer is %d.", 42);
  Need(slot.Send(static_cast<size_t>(length)));
  // Or, when the bytes are there already:
  Need(pipe.SendBytes("A second message."));

  for (int i = 0; i < 2; ++i) {
    mi7::ReadSlot message = Need(pipe.Fetch());
    std::cout << "  " << message.text() << "\n";
    Need(message.Release());  // done: the slot is empty again
  }
}

void LifeOfASlot(mi7::SlotPipe& pipe) {
  std::cout << "== The life of a slot\n";
  ShowStates(pipe);
  mi7::WriteSlot slot = Need(pipe.Hold());
  ShowStates(pipe);
  Need(pipe.MarkInProgress(slot.ref()));  // a scheduler would hand it to a worker now
  ShowStates(pipe);
  Need(slot.SendBytes("life"));
  ShowStates(pipe);
  mi7::ReadSlot message = Need(pipe.Fetch());
  ShowStates(pipe);
  Need(message.Release());
  ShowStates(pipe);
}

void Errors(mi7::SlotPipe& pipe) {
  std::cout << "== Errors are told apart\n";
  const auto show = [](const char* what, const absl::Status& status) {
    std::cout << "  " << what << ": " << absl::StatusCodeToString(status.code()) << "\n";
  };
  show("nothing to fetch", pipe.TryFetch().status());
  show("nothing within 10 ms", pipe.Fetch(mi7::Deadline::After(absl::Milliseconds(10))).status());
  show("too large a message", pipe.SendBytes(std::string(pipe.slot_bytes() + 1, 'x')));
  std::vector<mi7::WriteSlot> all;
  for (uint32_t i = 0; i < pipe.slots(); ++i) all.push_back(Need(pipe.TryHold()));
  show("no empty slot", pipe.TryHold().status());
  all.clear();  // dropped without Send: given back
  show("no such pipe", mi7::SlotPipe::Connect("no-such-pipe").status());
  show("it exists", mi7::SlotPipe::Create(pipe.name()).status());
  show("not a name", mi7::SlotPipe::Create("../etc").status());
  const mi7::SlotRef used = Need(pipe.Hold()).ref();
  show("a slot that is not ours any more", pipe.Writing(used).status());
}

void Redelivery(mi7::SlotPipe& pipe) {
  std::cout << "== A message that is not released comes again\n";
  Need(pipe.SendBytes("Too hard for me."));
  for (;;) {
    auto message = pipe.TryFetch();
    if (!message.ok()) break;
    std::cout << "  attempt " << message->attempt()
              << (message->redelivered() ? ", again\n" : "\n");
    // Dropped without Release, as if this process had died here.
  }
  mi7::ReadSlot letter = Need(pipe.TryFetchDeadLetter());
  std::cout << "  now a dead letter: " << letter.text() << "\n";
  Need(letter.Release());
}

void Statistics(const mi7::SlotPipe& pipe) {
  const mi7::PipeStatus status = pipe.Status();
  std::cout << "== Statistics\n"
            << "  " << status.sent << " sent, " << status.received << " received, "
            << status.redelivered << " redelivered, " << status.dead_lettered << " dead-lettered\n"
            << "  " << status.empty << " of " << status.options.slots << " slots are empty, "
            << status.participants.size() << " takes part\n";
}

}  // namespace

int main() {
  const std::string name = absl::StrCat("basic-usage-", ::getpid());
  const auto pipe = Need(mi7::SlotPipe::Create(name, {.slots = 3, .slot_bytes = 64}));
  SendAndReceive(*pipe);
  LifeOfASlot(*pipe);
  Errors(*pipe);
  Redelivery(*pipe);
  Statistics(*pipe);
  // The memory goes with the last participant; without this the name stays, to be joined again.
  Need(mi7::SlotPipe::Remove(name, /*even_in_use=*/true));
}
