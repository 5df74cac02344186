#pragma once

// WrittenMessages: what was written to a stream, in order, as long as the call that it is may be
// made again: then it is all sent once more.
//
// What is kept is bounded by what a writer may send before its peer has taken any of it: a window
// and one message. Small messages are kept as copies of their words, because the block of memory
// that each lies in is larger; of large ones a second handle is kept (transport::ShareMessage). So
// it is of the first small ones that lie in shared memory, so that a stream of a few costs no copy.
// Of all of them it would take the connection's slots, which others would have to clear first.
//
// Not thread-safe.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <capnp/message.h>

#include "absl/container/inlined_vector.h"
#include "transport/message.h"

namespace mi7 {

class WrittenMessages {
 public:
  // Bodies of up to so many bytes are copied,
  static constexpr size_t kCopiedBytesMax = 4096;
  // but the first so many that lie in shared memory: by default a quarter of the smallest slots.
  static constexpr size_t kSmallInSlotsMax = 32;

  // `message` is about to be sent, and is written no more: keeps it, and leaves in its place what
  // is to be sent. Not while there are unsent ones.
  void Add(transport::OutgoingMessage& message);
  // The last one that was added was not sent, and is not to be.
  void DropLast();
  // All are to be sent again. False: one of them cannot be, since it lay where the peer read it and
  // its memory was needed.
  bool Rewind();
  bool has_unsent() const { return sent_ != entries_.size(); }
  // The first of those that are unsent, to be sent; it counts as sent. `keep`: it may have to be
  // sent again.
  transport::OutgoingMessage Next(bool keep);
  // Those that were sent need not be kept any more.
  void DropSent();

 private:
  using Segment = kj::ArrayPtr<const capnp::word>;
  struct Entry {
    // Empty: the words are in words_, from `begin` on.
    transport::OutgoingMessage message;
    size_t begin = 0;
    // As they were written: whoever sends the message may be looking for them at this moment. Of
    // words only their sizes count.
    absl::InlinedVector<Segment, 1> segments;
  };

  // Makes `entry` one that has the words of `segments`.
  void CopyWords(Entry& entry, kj::ArrayPtr<const Segment> segments);
  static kj::ArrayPtr<const Segment> SegmentsOf(const Entry& entry) {
    return kj::arrayPtr(entry.segments.data(), entry.segments.size());
  }
  transport::OutgoingMessage Build(const Entry& entry) const;

  std::vector<Entry> entries_;
  size_t sent_ = 0;  // so many of them
  std::vector<uint64_t> words_;
};

}  // namespace mi7
