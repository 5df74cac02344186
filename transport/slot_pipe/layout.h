#pragma once

// The shared memory of a slot pipe. Offsets and indices only, no pointers; little-endian, as the
// machines that mi7 runs on.
//
//    0 +--------------------------------------------+
//      | PipeHeader: magic, version, geometry       |  written before the file has its name,
//  128 +--------------------------------------------+  never after
//      | head                     (a line of 64 B)  |  where to fetch: a hint
//  192 | tail                                       |  where to push: a hint
//  256 | ready: event word                          |  who waits for messages
//  320 | empty: event word                          |  who waits for empty slots
//  384 | rare: next check, counters                 |
//  448 | summary of the hints: 4 words              |  one bit for each word below
//  512 +--------------------------------------------+  hints_offset
//      | hints: one bit a slot, "perhaps empty"     |
//      +--------------------------------------------+  participants_offset
//      | ParticipantEntry x participants            |  entry i is alive while byte i of the file
//      +--------------------------------------------+  is locked; cells_offset
//      | order ring: CellWord x cells               |  at least two cells a slot, a power of two
//      +--------------------------------------------+  slots_offset (a page)
//      | SlotHeader | payload | padding             |  slot 0
//      | SlotHeader | payload | padding             |  slot 1 ...
//      +--------------------------------------------+  file_bytes
//
// Everything that several participants write is an atomic word; the rest of a slot belongs to its
// owner. What is read here is read once and checked before it is used (docs/SLOT_PIPE.md).

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/slot_pipe/atomic.h"
#include "transport/slot_pipe/words.h"

namespace mi7::slot_pipe_internal {

inline constexpr uint64_t kPipeMagic = 0x6570'6970'0A37'696D;  // "mi7\npipe"
inline constexpr uint32_t kPipeVersion = 2;
inline constexpr size_t kLineBytes = 64;

static_assert(Atomic<uint64_t>::is_always_lock_free && sizeof(Atomic<uint64_t>) == 8);
static_assert(Atomic<uint32_t>::is_always_lock_free && sizeof(Atomic<uint32_t>) == 4);

// What a pipe is made of; everything else about its memory follows from it.
struct Geometry {
  uint32_t slots = 0;
  uint32_t slot_bytes = 0;  // of the payload
  uint32_t participants = 0;
  uint32_t attempts_max = 0;  // fetches of one message, then it is a dead letter; 0: no bound
  uint32_t flags = 0;
  friend constexpr bool operator==(const Geometry&, const Geometry&) = default;
};
// Bits of flags.
inline constexpr uint32_t kFlagChecksum = 1;
inline constexpr uint32_t kFlagGroup = 2;
inline constexpr uint32_t kFlagsKnown = 3;

inline constexpr uint32_t kSlotBytesMax = 1u << 30;
inline constexpr uint32_t kParticipantsMax = 4094;
static_assert(kParticipantsMax < kNoOwner);
// The byte of the file that who joins has locked, shared, until it has its place. Whoever removes
// the pipe locks it and all places, exclusively.
inline constexpr uint32_t kJoinByte = kParticipantsMax;

// At offset 0.
struct PipeHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t header_bytes;
  uint32_t slots;
  uint32_t slot_bytes;
  uint32_t participants;
  uint32_t cells;
  uint32_t attempts_max;
  uint32_t flags;
  uint64_t participants_offset;
  uint64_t cells_offset;
  uint64_t slots_offset;
  uint64_t slot_stride;
  uint64_t file_bytes;
  uint64_t created_unix_ns;
  uint64_t checksum;     // of all others
  uint64_t reserved[4];  // zero
};
static_assert(sizeof(PipeHeader) == 128);
static_assert(offsetof(PipeHeader, version) == 8 && offsetof(PipeHeader, header_bytes) == 12);
static_assert(offsetof(PipeHeader, slots) == 16 && offsetof(PipeHeader, slot_bytes) == 20);
static_assert(offsetof(PipeHeader, participants) == 24 && offsetof(PipeHeader, cells) == 28);
static_assert(offsetof(PipeHeader, attempts_max) == 32 && offsetof(PipeHeader, flags) == 36);
static_assert(offsetof(PipeHeader, participants_offset) == 40);
static_assert(offsetof(PipeHeader, cells_offset) == 48 && offsetof(PipeHeader, slots_offset) == 56);
static_assert(offsetof(PipeHeader, slot_stride) == 64 && offsetof(PipeHeader, file_bytes) == 72);
static_assert(offsetof(PipeHeader, created_unix_ns) == 80 && offsetof(PipeHeader, checksum) == 88);

// At offset 128: what all participants write, a cache line each.
struct SharedWords {
  alignas(kLineBytes) Atomic<uint64_t> head;
  alignas(kLineBytes) Atomic<uint64_t> tail;
  alignas(kLineBytes) Atomic<uint32_t> ready_event;
  alignas(kLineBytes) Atomic<uint32_t> empty_event;
  // When somebody should look for dead participants next: CLOCK_MONOTONIC_COARSE.
  alignas(kLineBytes) std::atomic<int64_t> next_check_ns;
  // Of rare events; a death between the event and its count leaves the count one short.
  std::atomic<uint64_t> redelivered;
  std::atomic<uint64_t> dead_lettered;
  std::atomic<uint64_t> cycles_wrapped;  // the cycle of a slot came round to 0
  std::atomic<uint64_t> recovered_participants;
  std::atomic<uint64_t> recovered_slots;
  alignas(kLineBytes) Atomic<uint64_t> hint_summary[kSlotsMax / 64 / 64];
};
static_assert(sizeof(SharedWords) == 384);
static_assert(offsetof(SharedWords, tail) == 64 && offsetof(SharedWords, ready_event) == 128);
static_assert(offsetof(SharedWords, empty_event) == 192);
static_assert(offsetof(SharedWords, next_check_ns) == 256);
static_assert(offsetof(SharedWords, recovered_slots) == 296);
static_assert(offsetof(SharedWords, hint_summary) == 320);

inline constexpr uint64_t kSharedWordsOffset = sizeof(PipeHeader);
inline constexpr uint64_t kHintsOffset = kSharedWordsOffset + sizeof(SharedWords);
static_assert(kHintsOffset == 512);

// Whether an entry of the table is in use; who uses it is for people only.
enum ParticipantState : uint32_t { kParticipantFree = 0, kParticipantAlive = 1 };
struct ParticipantEntry {
  std::atomic<uint32_t> state;
  // Diagnostics: written by the participant before it is alive. A process id means something in its
  // own namespace only and is never used to find out who lives.
  std::atomic<uint32_t> pid;
  std::atomic<uint64_t> joined_unix_ns;
  std::atomic<uint64_t> name[6];  // zero-padded text
};
static_assert(sizeof(ParticipantEntry) == 64);
static_assert(offsetof(ParticipantEntry, pid) == 4);
static_assert(offsetof(ParticipantEntry, joined_unix_ns) == 8);
static_assert(offsetof(ParticipantEntry, name) == 16);

// What the payload of a slot is.
enum class PayloadKind : uint32_t { kBytes = 0, kCapnp = 1 };

// Before each payload. All but the word belongs to the slot's owner; atomic because a pipe that was
// scribbled upon must not become undefined behaviour, and because Status looks at any time.
struct SlotHeader {
  Atomic<uint64_t> word;  // SlotWord
  // The word with which the owner has handed the slot on: in progress while it is that.
  std::atomic<uint64_t> handed;
  std::atomic<uint32_t> size;
  std::atomic<uint32_t> kind;
  std::atomic<uint64_t> checksum;  // of size, kind and payload; with kFlagChecksum only
  uint64_t reserved[4];
};
static_assert(sizeof(SlotHeader) == kLineBytes);
static_assert(offsetof(SlotHeader, handed) == 8 && offsetof(SlotHeader, size) == 16);
static_assert(offsetof(SlotHeader, kind) == 20 && offsetof(SlotHeader, checksum) == 24);

// CLOCK_REALTIME, for people, by a system call: absl::Now() calibrates itself in a loop, and the
// C library reads the time in one, which a process that is stepped through by a debugger or a test
// hardly ever leaves.
uint64_t UnixNanos();

// Where everything is. Computed from the geometry, never taken from the file.
struct Layout {
  Geometry geometry;
  uint32_t cells = 0;
  uint32_t cells_log2 = 0;
  uint32_t hint_words = 0;
  uint64_t participants_offset = 0;
  uint64_t cells_offset = 0;
  uint64_t slots_offset = 0;
  uint64_t slot_stride = 0;
  uint64_t file_bytes = 0;
};

// INVALID_ARGUMENT naming the value and its bounds.
absl::StatusOr<Layout> MakeLayout(const Geometry& geometry);

// The header that a file of this layout begins with.
PipeHeader MakeHeader(const Layout& layout, uint64_t created_unix_ns);

// Checks a copy of a header, and the size of its file, against what this version writes.
// FAILED_PRECONDITION for another version, DATA_LOSS for what is no slot pipe or was damaged.
absl::StatusOr<Layout> CheckHeader(const PipeHeader& header, uint64_t file_bytes);

}  // namespace mi7::slot_pipe_internal
