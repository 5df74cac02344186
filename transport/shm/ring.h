#pragma once

// The ring of records in a control page (layout.h): its writing end, in our half, and its reading
// end, in the peer's. One writer and one reader, no compare-and-swap, no system call.
//
// Memory ordering: the writer stores a record's words plainly and then `sequence` of its first cell
// with release; the reader loads that with acquire and then reads the words. The reader stores
// `consumed` with release after it has copied a record; the writer loads it with acquire before it
// writes those cells again.

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/prefetch.h"
#include "transport/frame.h"
#include "transport/shm/layout.h"
#include "transport/shm/tsan_order.h"

namespace mi7::transport::shm {

// A record in private memory.
struct Record {
  FrameHeader header;
  Form form{};
  uint32_t count = 0;  // of `words`
  std::array<uint64_t, kRecordWordsMax> words;
};

constexpr uint32_t CellsOf(uint32_t words) {
  return (kHeaderWords + words + kCellWords - 1) / kCellWords;
}

// Advances a cell's sequence, which is never 0.
constexpr uint32_t NextSequence(uint32_t sequence, uint32_t cells) {
  const uint32_t next = sequence + cells;
  return next >= sequence ? next : next + 1;
}
static_assert(NextSequence(SequenceAt(7), 3) == SequenceAt(10));
static_assert(NextSequence(SequenceAt(0xfffffffe), 1) == SequenceAt(0xffffffff));
static_assert(NextSequence(SequenceAt(0xfffffffd), 4) == SequenceAt(0x1'00000001));

// One user at a time.
class RingWriter {
 public:
  RingWriter(Control& mine, const Control& theirs) : mine_(mine), theirs_(theirs) {}

  // Whether a record of `words` words besides its header can be written now. Looks at the peer's
  // progress only when what was known of it does not suffice.
  bool HasRoom(uint32_t words) {
    const uint32_t cells = CellsOf(words);
    if (in_use_ + cells <= kRingCells) [[likely]]
      return true;
    const uint32_t consumed = theirs_.consumed.load(std::memory_order_acquire);
    const uint32_t freed = consumed - consumed_;
    // A peer that has read more than we wrote lies; it gets no room.
    if (freed <= in_use_) {
      consumed_ = consumed;
      in_use_ -= freed;
    }
    return in_use_ + cells <= kRingCells;
  }

  // Writes a record; there must be room. `words` follow `header`.
  void Write(const FrameHeader& header, Form form, std::span<const uint64_t> words) {
    const auto count = static_cast<uint32_t>(words.size());
    const uint32_t cells = CellsOf(count);
    Cell& first = mine_.ring[index_];
    first.shape = ShapeOf(form, cells, count);
    std::memcpy(first.payload, &header, kFrameHeaderBytes);
    constexpr uint32_t kFirstWords = kCellWords - kHeaderWords;
    const uint64_t* from = words.data();
    uint32_t left = count;
    const uint32_t now = left < kFirstWords ? left : kFirstWords;
    if (now != 0) std::memcpy(first.payload + kHeaderWords, from, now * sizeof(uint64_t));
    from += now;
    left -= now;
    uint32_t index = index_;
    for (uint32_t i = 1; i < cells; ++i) {
      index = index + 1 == kRingCells ? 0 : index + 1;
      Cell& cell = mine_.ring[index];
      const uint32_t some = left < kCellWords ? left : kCellWords;
      std::memcpy(cell.payload, from, some * sizeof(uint64_t));
      from += some;
      left -= some;
    }
    TsanBefore();
    first.sequence.store(sequence_, std::memory_order_release);
    index_ = index + 1 == kRingCells ? 0 : index + 1;
    sequence_ = NextSequence(sequence_, cells);
    in_use_ += cells;
  }

  // For whoever writes record after record: asks for the cell after the next one, since a reader
  // that has caught up polls the next. A record that an answer is waited for comes later by it.
  void ExpectMore() { PrefetchForWriting(&mine_.ring[index_ + 1 == kRingCells ? 0 : index_ + 1]); }

 private:
  Control& mine_;
  const Control& theirs_;
  uint32_t index_ = 0;                 // of the next record's first cell
  uint32_t sequence_ = SequenceAt(0);  // of that cell
  uint32_t in_use_ = 0;                // cells that the reader is not known to have read
  uint32_t consumed_ = 0;              // what was known of the reader's `consumed`
};

// One user at a time, but for Ready, which any thread may ask: its answer is then a guess.
class RingReader {
 public:
  RingReader(const Control& theirs, Control& mine) : theirs_(theirs), mine_(mine) {}

  // Whether a record is there. The order is acquire, or what a sleeper needs (doorbell.h).
  bool Ready(std::memory_order order = std::memory_order_acquire) const {
    return theirs_.ring[index_.load(std::memory_order_relaxed)].sequence.load(order) ==
           sequence_.load(std::memory_order_relaxed);
  }

  // Copies the next record, which must be Ready. False: it is malformed; the peer is broken.
  // What was read is not told to the peer before Publish.
  bool Read(Record& record) {
    TsanAfter();
    uint32_t index = index_.load(std::memory_order_relaxed);
    const Cell& first = theirs_.ring[index];
    const uint32_t shape = *static_cast<const volatile uint32_t*>(&first.shape);
    record.form = static_cast<Form>(shape & 0xff);
    const uint32_t cells = (shape >> 8) & 0xff;
    record.count = shape >> 16;
    if (record.count > kRecordWordsMax || cells != CellsOf(record.count)) [[unlikely]]
      return false;
    uint64_t header[kHeaderWords];
    for (uint32_t i = 0; i < kHeaderWords; ++i) header[i] = Word(first, i);
    std::memcpy(static_cast<void*>(&record.header), header, sizeof(header));
    uint32_t at = kHeaderWords;
    for (uint32_t i = 0; i < record.count; ++i, ++at) {
      if (at == kCellWords) {
        index = index + 1 == kRingCells ? 0 : index + 1;
        at = 0;
      }
      record.words[i] = Word(theirs_.ring[index], at);
    }
    index_.store(index + 1 == kRingCells ? 0 : index + 1, std::memory_order_relaxed);
    sequence_.store(NextSequence(sequence_.load(std::memory_order_relaxed), cells),
                    std::memory_order_relaxed);
    read_ += cells;
    return true;
  }

  // Cells that were read and not told to the peer.
  uint32_t unpublished() const { return read_ - published_; }

  // Lets the writer use what was read. It is not woken by this.
  void Publish(std::memory_order order = std::memory_order_release) {
    published_ = read_;
    mine_.consumed.store(read_, order);
  }

 private:
  // Each word is read once.
  static uint64_t Word(const Cell& cell, uint32_t i) {
    return *static_cast<const volatile uint64_t*>(&cell.payload[i]);
  }

  const Control& theirs_;
  Control& mine_;
  // Atomic for Ready's sake; relaxed, because a guess orders nothing.
  std::atomic<uint32_t> index_{0};
  std::atomic<uint32_t> sequence_{SequenceAt(0)};
  uint32_t read_ = 0;       // cells, ever, modulo 2^32
  uint32_t published_ = 0;  // of these, told to the peer
};

}  // namespace mi7::transport::shm
