#pragma once

// WeakMemory: what a load may return where memory is no weaker than its memory orders make it.
//
// Each location has the writes to it in their order. Each actor has a view: the last write of each
// location that it must know of. A load may return that write or any later one. A write that
// releases takes its actor's view along, an acquiring load of it joins that to its own; a
// compare-and-swap, or another operation that reads and writes, reads the last write, and passes
// on what that one took along (release sequences). Sequentially consistent operations of one
// location see each other in the order in which they are executed. (The model of views of Kang and
// others, "A Promising Semantics for Relaxed-Memory Concurrency", 2017, without promises.)
//
// So it shows what a machine with store buffers and lazy caches does. What it does not show is a
// load that takes effect after what follows it, or a write that takes effect before what precedes
// it by other means than views, which some machines do: docs/SLOT_PIPE.md says which orders are
// needed for that alone.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mi7::slot_pipe_internal {

// Not thread-safe. Actors are numbered from 0.
class WeakMemory {
 public:
  // Forgets all; every location has the value that its memory has when it is used first.
  void Restart(size_t actors);

  // How many writes a load by `actor` may return, the last one among them. `last`: its value.
  uint32_t Readable(size_t actor, const void* location, uint64_t last, std::memory_order order);
  // A load that returns the last write but `age`, which is less than Readable said.
  uint64_t Read(size_t actor, const void* location, uint32_t age, std::memory_order order);
  // A write of `value` after `last`, which it has read first, or not.
  void Write(size_t actor, const void* location, uint64_t last, uint64_t value, bool reads,
             std::memory_order order);
  // `actor` gets to know what `of` knows, by other means than memory.
  void Join(size_t actor, size_t of);

 private:
  static constexpr size_t kLocationsMax = 64;  // of a scenario
  // Of each location the number of a write.
  using View = std::array<uint8_t, kLocationsMax>;
  struct OneWrite {
    uint64_t value;
    View released;  // what it takes along
  };
  struct Location {
    const void* address;
    std::vector<OneWrite> writes;
    uint8_t consistent;  // the last one that a sequentially consistent operation wrote or read
  };

  size_t Find(const void* location, uint64_t last);

  std::vector<Location> locations_;
  size_t used_ = 0;  // of locations_
  std::vector<View> views_;
};

}  // namespace mi7::slot_pipe_internal
