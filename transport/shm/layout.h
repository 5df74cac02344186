#pragma once

// What two processes share of a connection's memory, byte by byte (docs/SHM.md).
//
// Every connection has two *halves*, one a direction. Each side makes its own half, is the only one
// that ever writes to it, and passes it to the other, which maps it for reading alone. For the
// control page, and for slots towards a peer that is not trusted, the seal F_SEAL_FUTURE_WRITE
// makes the system see to that: nothing such a peer does can change what we wrote. Everything we
// read of the peer's half is read once, into private memory, and checked; but payloads of a trusted
// peer are read where they are.
//
// A half is a page of control memory, and a chunk of slots for each size class that was ever used.
//
//   control page, 4096 bytes
//     0 +-------------------------------------------------------------+
//       | Geometry: magic, version, size classes; constant             | 1 line
//   128 +-------------------------------------------------------------+
//       | consumed: how many cells of the *peer's* ring we have read    | 1 line
//   192 +-------------------------------------------------------------+
//       | attention: whether and how we sleep                           | 1 line
//   256 +-------------------------------------------------------------+
//       | bell: what the peer's sleeping thread waits on                | 1 line
//   320 +-------------------------------------------------------------+
//       | released: a bit for each of the *peer's* slots                | 3 lines
//   512 +-------------------------------------------------------------+
//       | ring: 56 cells of one cache line each                         |
//  4096 +-------------------------------------------------------------+
//
//   a cell
//     0          4                            8                                     64
//     +----------+----------------------------+--------------------------------------+
//     | sequence | shape: form, cells, words  | 7 words of the record                |
//     +----------+----------------------------+--------------------------------------+
//
// A *record* is one message: a 32-byte FrameHeader (transport/frame.h) and `words` further words,
// in 1 to kRecordCellsMax consecutive cells of the ring. `sequence` of the record's first cell is
// stored last, with release; it is the cell's position in the stream of cells plus one, modulo 2^32
// without 0, so the reader knows a new record by looking at that one word, in the same cache line
// as the message itself.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "transport/frame.h"

namespace mi7::transport::shm {

inline constexpr uint64_t kMagic = 0x314d4853'37694dd7;  // D7 'M' 'i' '7' "SHM1"
inline constexpr uint32_t kLayoutVersion = 2;

inline constexpr size_t kLineBytes = 64;
inline constexpr size_t kPageBytes = 4096;
inline constexpr uint64_t kSlotBytesMax = 1ull << 32;
inline constexpr size_t kControlBytes = 4096;
inline constexpr uint32_t kRingCells = 56;
inline constexpr uint32_t kCellWords = 7;
inline constexpr uint32_t kRecordCellsMax = 4;
inline constexpr uint32_t kHeaderWords = kFrameHeaderBytes / 8;
// Words of a record besides its header.
inline constexpr uint32_t kRecordWordsMax = kRecordCellsMax * kCellWords - kHeaderWords;
inline constexpr uint32_t kClassesMax = 6;
// Slots of a half, all classes together.
inline constexpr uint32_t kSlotsMax = 1536;

// What the words of a record are.
enum class Form : uint8_t {
  // extra_size / 8 words of extra part, then the body's only segment (none: no body).
  kInline = 1,
  // A descriptor of the extra part if there is one, then one for each segment of the body.
  kSegments = 2,
  // One descriptor, of extra and body in stream form, as on TCP.
  kStream = 3,
  // How many words of extra part and first segment follow; these; then a descriptor for each
  // further segment.
  kFirstInline = 4,
};

// Where a piece of a message lies: `words` 8-byte words from the start of a slot on. A piece larger
// than a slot takes the following slots of its class as well; it is known by its first one.
//
//   0         4      6            7          8
//   | words   | slot | size class | reserved |
struct Descriptor {
  uint32_t words;
  uint16_t slot;  // in its class
  uint8_t size_class;
  uint8_t reserved;  // 0
};
static_assert(sizeof(Descriptor) == 8);
static_assert(offsetof(Descriptor, words) == 0);
static_assert(offsetof(Descriptor, slot) == 4);
static_assert(offsetof(Descriptor, size_class) == 6);
static_assert(offsetof(Descriptor, reserved) == 7);
static_assert(kRecordWordsMax == 24);

// A size class: `count` slots of `slot_bytes`, a multiple of the page size, in a chunk of their
// own.
//
//   0            8       12         16
//   | slot bytes | count | reserved |
struct SizeClass {
  uint64_t slot_bytes;
  uint32_t count;
  uint32_t reserved;  // 0
};
static_assert(sizeof(SizeClass) == 16);
static_assert(offsetof(SizeClass, slot_bytes) == 0);
static_assert(offsetof(SizeClass, count) == 8);
static_assert(offsetof(SizeClass, reserved) == 12);

// Written before the half is passed to the peer; constant afterwards.
//
//   0       8         12              16           20            24         32              128
//   | magic | version | control bytes | ring cells | class count | reserved | size classes: 6 |
struct Geometry {
  uint64_t magic;
  uint32_t version;
  uint32_t control_bytes;
  uint32_t ring_cells;
  uint32_t class_count;
  uint64_t reserved;  // 0
  SizeClass classes[kClassesMax];
};
static_assert(sizeof(Geometry) == 128);
static_assert(offsetof(Geometry, magic) == 0);
static_assert(offsetof(Geometry, version) == 8);
static_assert(offsetof(Geometry, control_bytes) == 12);
static_assert(offsetof(Geometry, ring_cells) == 16);
static_assert(offsetof(Geometry, class_count) == 20);
static_assert(offsetof(Geometry, reserved) == 24);
static_assert(offsetof(Geometry, classes) == 32);

// A cache line of a ring.
struct alignas(kLineBytes) Cell {
  std::atomic<uint32_t> sequence;
  uint32_t shape;  // ShapeOf; counts in a record's first cell only
  uint64_t payload[kCellWords];
};
static_assert(sizeof(Cell) == kLineBytes);
static_assert(offsetof(Cell, sequence) == 0);
static_assert(offsetof(Cell, shape) == 4);
static_assert(offsetof(Cell, payload) == 8);

// Of a record: its form in the lowest byte, its cells in the next, its words besides the header in
// the upper half.
constexpr uint32_t ShapeOf(Form form, uint32_t cells, uint32_t words) {
  return static_cast<uint32_t>(form) | cells << 8 | words << 16;
}

// How a side sleeps: what `attention` says besides a count that grows with every sleep, so that a
// peer wakes each sleep once (doorbell.h).
enum AttentionBits : uint32_t {
  kAwake = 0,          // polls, or will within a bounded time
  kFutex = 1,          // a thread waits on the peer's `bell`
  kSocket = 2,         // an event loop watches the socket: a byte wakes it
  kModeMask = 3,       //
  kWantsRoom = 4,      // to be woken also when the peer consumed cells or released slots
  kAttentionStep = 8,  // one sleep
};

// The control page; see the drawing above.
struct Control {
  Geometry geometry;
  // Cells of the peer's ring that we have read, modulo 2^32.
  alignas(kLineBytes) std::atomic<uint32_t> consumed;
  alignas(kLineBytes) std::atomic<uint32_t> attention;
  // Incremented before each wake of the peer's sleeping thread.
  alignas(kLineBytes) std::atomic<uint32_t> bell;
  // Bit i is flipped whenever the peer's slot i (counted over all its classes in order) is
  // released.
  alignas(kLineBytes) std::atomic<uint64_t> released[kSlotsMax / 64];
  alignas(kLineBytes) Cell ring[kRingCells];
};
static_assert(sizeof(Control) == kControlBytes);
static_assert(offsetof(Control, geometry) == 0);
static_assert(offsetof(Control, consumed) == 128);
static_assert(offsetof(Control, attention) == 192);
static_assert(offsetof(Control, bell) == 256);
static_assert(offsetof(Control, released) == 320);
static_assert(offsetof(Control, ring) == 512);
static_assert(std::atomic<uint32_t>::is_always_lock_free && sizeof(std::atomic<uint32_t>) == 4);
static_assert(std::atomic<uint64_t>::is_always_lock_free && sizeof(std::atomic<uint64_t>) == 8);

// The `sequence` of the cell at `position` in the stream of cells.
constexpr uint32_t SequenceAt(uint64_t position) {
  return static_cast<uint32_t>(position % 0xffffffffu) + 1;
}

// Copies what the peer may be changing at this moment, each word of it read once; the copy is
// what is checked and used. Words may be of different moments. `from` is 8-aligned.
inline void ReadShared(void* to, const void* from, size_t bytes) {
  const auto* in = static_cast<const volatile uint64_t*>(from);
  for (size_t i = 0; i < bytes / sizeof(uint64_t); ++i) {
    const uint64_t word = in[i];
    std::memcpy(static_cast<std::byte*>(to) + i * sizeof(word), &word, sizeof(word));
  }
}

// What follows the handshake on the Unix socket is read as a stream of bytes: 0 wakes the event
// loop; 0x10 + c comes with one descriptor, the chunk of size class c, and before the first record
// that refers to it. Anything else breaks the protocol.
inline constexpr uint8_t kWakeByte = 0;
inline constexpr uint8_t kChunkByte = 0x10;

}  // namespace mi7::transport::shm
