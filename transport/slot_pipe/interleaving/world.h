#pragma once

// World: a slot pipe in private memory, for actors.

#include <cstdint>
#include <string>
#include <vector>

#include "transport/slot_pipe/event.h"
#include "transport/slot_pipe/protocol.h"
#include "transport/slot_pipe/region.h"

namespace mi7::slot_pipe_internal {

// What became of a message, as its actors have seen it.
struct Message {
  bool sending = false;    // Send was called
  bool sent = false;       // Send returned
  bool fetched = false;    // by somebody
  bool releasing = false;  // Release was called
  uint32_t released = 0;   // how often Release returned
  uint32_t unmarked = 0;   // fetches as a first attempt
};

// The memory is one for all worlds: a new one is empty.
class World {
 public:
  static constexpr uint32_t kMessages = 8;

  // The next message goes to position `position` of the ring, which has so many cells, a power of
  // two: the least that a pipe has, or fewer, so that it comes round soon.
  explicit World(uint32_t slots, uint64_t position = 0, uint32_t cells = 256);

  // What is left when others have sent and fetched messages until the next one goes to `position`,
  // in empty slots, each of which has carried `cycles` of them. Nothing when there is a message in
  // the ring at this moment. One step.
  void GoRound(uint64_t position, uint64_t cycles);

  const Region& region() const { return region_; }
  Message& message(uint32_t number) { return messages_[number]; }
  // What SlotPipe::Cancel sets.
  Atomic<uint32_t>& cancelled() { return cancelled_; }

  // Takes what is in the pipe, as whoever comes last, and compares: what was sent came out once,
  // nothing else did, every slot is empty, and is found by the hints. "" when all is well.
  std::string Audit();

 private:
  void EmptyRing(uint64_t position);

  Region region_;
  Message messages_[kMessages];
  Atomic<uint32_t> cancelled_;
};

// What one participant does, with the waits and the wakes of a SlotPipe. Every wait ends by what
// others do: there are no deadlines here.
class Person {
 public:
  Person(World* world, uint16_t index)
      : world_(world),
        protocol_(world->region(), index),
        ready_(world->region().words().ready_event),
        empty_(world->region().words().empty_event) {}

  Protocol& protocol() { return protocol_; }

  Claim Hold();
  void Send(const Claim& claim, uint32_t message);
  void GiveBack(const Claim& claim);
  // Waits, and notes what came; or false, when there is nothing.
  Claim Fetch();
  bool TryFetch(Claim& claim);
  // Waits for a message, or that somebody cancels, as SlotPipe::Impl::Wait does. False: cancelled.
  bool FetchUnlessCancelled(Claim& claim);
  void Cancel();
  void Release(const Claim& claim);
  void Return(const Claim& claim);
  // Of the dead: sweeps, then wakes everybody.
  void Recover(uint16_t dead);

 private:
  void Note(const Claim& claim);

  World* const world_;
  Protocol protocol_;
  Event ready_;
  Event empty_;
};

}  // namespace mi7::slot_pipe_internal
