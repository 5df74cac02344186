// One to many: a publisher, and subscribers in processes of their own, each with a pipe of its own
// that is found by its name. A subscriber that does not keep up misses events, and is told how
// many; it delays neither the publisher nor anybody else.
//
//   event_bus --publish=N [--bus=NAME] [--wait_for=N]    publishes N events to whoever listens
//   event_bus --subscribe [--bus=NAME]                   prints events until the last one

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "transport/slot_pipe/slot_pipe.h"

ABSL_FLAG(std::string, bus, "bus", "name of the bus; its pipes are called NAME.PROCESS");
ABSL_FLAG(uint64_t, publish, 0, "publish so many events");
ABSL_FLAG(uint32_t, wait_for, 1, "publish when there are so many subscribers");
ABSL_FLAG(bool, subscribe, false, "print what is published");

namespace {

struct Event {
  uint64_t number;  // counts from 1; 0: the last one
  uint64_t missed;  // events that this subscriber had no room for before this one
};

// Events are small and may be missed: many slots, and no second delivery.
constexpr mi7::PipeOptions kOptions = {.slots = 64, .slot_bytes = 64, .attempts_max = 1};

int Subscribe(const std::string& bus) {
  const std::string name = absl::StrCat(bus, ".", ::getpid());
  auto pipe = mi7::SlotPipe::Create(name, kOptions, {.name = "subscriber"});
  if (!pipe.ok()) {
    std::cerr << "event_bus: " << pipe.status() << "\n";
    return 1;
  }
  std::cout << "listening as " << name << std::endl;
  uint64_t received = 0;
  uint64_t missed = 0;
  bool last = false;
  auto messages = (*pipe)->Messages(mi7::Deadline::After(absl::Seconds(60)));
  for (mi7::ReadSlot& message : messages) {
    Event event{};
    std::memcpy(&event, message.data(), std::min(sizeof(event), message.size()));
    missed += event.missed;
    last = event.number == 0;
    if (!last) ++received;
    if (!message.Release().ok() || last) break;
  }
  std::cout << "received " << received << ", missed " << missed << std::endl;
  return mi7::SlotPipe::Remove(name, /*even_in_use=*/true).ok() && last ? 0 : 1;
}

// The publisher's side of one subscriber.
struct Subscriber {
  std::unique_ptr<mi7::SlotPipe> pipe;
  uint64_t missed = 0;

  bool Offer(uint64_t number, mi7::Deadline deadline) {
    auto slot = pipe->Hold(deadline);
    if (!slot.ok()) {
      ++missed;
      return false;
    }
    const Event event{number, missed};
    std::memcpy(slot->data(), &event, sizeof(event));
    if (!slot->Send(sizeof(event)).ok()) return false;
    missed = 0;
    return true;
  }
};

// True where nobody but us takes part in a subscriber's pipe: it is dead. Then we leave, too, and
// the pipe is removed, unless somebody comes at this moment.
bool RemoveDead(const std::string& name, std::unique_ptr<mi7::SlotPipe>& pipe) {
  const mi7::PipeStatus status = pipe->Status();
  if (std::count_if(status.participants.begin(), status.participants.end(),
                    [](const mi7::PipeParticipant& participant) { return participant.alive; }) >
      1) {
    return false;
  }
  pipe.reset();
  mi7::SlotPipe::Remove(name).IgnoreError();
  return true;
}

// Connects to the pipes of subscribers that have come.
void FindNew(const std::string& bus, std::map<std::string, Subscriber>& subscribers) {
  const auto names = mi7::SlotPipe::List();
  if (!names.ok()) return;
  for (const std::string& name : *names) {
    if (!absl::StartsWith(name, bus + ".") || subscribers.count(name) != 0) continue;
    auto pipe = mi7::SlotPipe::Connect(name, {.name = "publisher"});
    if (pipe.ok() && !RemoveDead(name, *pipe)) subscribers[name].pipe = *std::move(pipe);
  }
}

int Publish(const std::string& bus, uint64_t events, uint32_t wait_for) {
  std::map<std::string, Subscriber> subscribers;
  const mi7::Deadline patience = mi7::Deadline::After(absl::Seconds(60));
  while (subscribers.size() < wait_for) {
    if (patience.passed()) {
      std::cerr << "event_bus: " << subscribers.size() << " of " << wait_for << " came\n";
      return 1;
    }
    FindNew(bus, subscribers);
  }
  for (uint64_t number = 1; number <= events; ++number) {
    if (number % 256 == 0) FindNew(bus, subscribers);
    for (auto& [name, subscriber] : subscribers) {
      subscriber.Offer(number, mi7::Deadline::AtNanos(0));  // now or never
    }
  }
  // The last one is waited for: it tells what was missed at the end.
  uint32_t told = 0;
  for (auto& [name, subscriber] : subscribers) {
    if (!RemoveDead(name, subscriber.pipe)) {
      if (subscriber.Offer(0, mi7::Deadline::After(absl::Seconds(1)))) {
        ++told;
        continue;
      }
      // It has not come for any event in all this time: stopped, or dead meanwhile.
      RemoveDead(name, subscriber.pipe);
    }
    std::cerr << "event_bus: " << name << " does not listen\n";
  }
  std::cout << "published " << events << " events to " << told << " subscribers" << std::endl;
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  const std::string bus = absl::GetFlag(FLAGS_bus);
  if (absl::GetFlag(FLAGS_subscribe)) return Subscribe(bus);
  if (absl::GetFlag(FLAGS_publish) > 0) {
    return Publish(bus, absl::GetFlag(FLAGS_publish), absl::GetFlag(FLAGS_wait_for));
  }
  std::cerr << "event_bus: give --subscribe or --publish=N; see --help\n";
  return 2;
}
