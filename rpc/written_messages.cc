#include "rpc/written_messages.h"

#include <atomic>
#include <climits>
#include <utility>

#include <capnp/any.h>

#include "base/check.h"
#include "transport/copy_counter.h"

namespace mi7 {

using transport::OutgoingMessage;

void WrittenMessages::CopyWords(Entry& entry, kj::ArrayPtr<const Segment> segments) {
  entry.begin = words_.size();
  for (const Segment& segment : segments) {
    const auto* const begin = reinterpret_cast<const uint64_t*>(segment.begin());
    words_.insert(words_.end(), begin, begin + segment.size());
  }
}

void WrittenMessages::Add(OutgoingMessage& message) {
  MI7_CHECK(!has_unsent(), "what was written first is sent first");
  Entry& entry = entries_.emplace_back();
  size_t bytes = 0;
  for (const Segment& segment : message->Segments()) {
    entry.segments.push_back(segment);
    bytes += segment.size() * sizeof(capnp::word);
  }
  // What is expected to be small is not in slots, and what is small rides in the ring's cells.
  const bool in_slots =
      message->further_segments() != nullptr && bytes > transport::SizeGuess::kSmallBytes;
  if (bytes <= kCopiedBytesMax && !(in_slots && entries_.size() <= kSmallInSlotsMax)) {
    CopyWords(entry, SegmentsOf(entry));
    if (in_slots) transport::copied_payload_bytes.fetch_add(bytes, std::memory_order_relaxed);
  } else {
    OutgoingMessage sent = transport::ShareMessage(*message, SIZE_MAX);
    entry.message = std::exchange(message, std::move(sent));
  }
  ++sent_;
}

void WrittenMessages::DropLast() {
  const Entry& last = entries_.back();
  if (!last.message) words_.resize(last.begin);
  entries_.pop_back();
  --sent_;
}

bool WrittenMessages::Rewind() {
  for (size_t i = 0; i < sent_; ++i) {
    Entry& entry = entries_[i];
    if (!entry.message) continue;
    if (transport::IsSole(*entry.message)) {
      // Its memory may be that of a connection that ends.
      transport::EnsureHeapMessage(entry.message);
      entry.message->segment_source = nullptr;
      continue;
    }
    // A connection has not let go of it yet, or it lies where the peer reads it.
    if (!transport::ReadShared(*entry.message, SegmentsOf(entry),
                               [&](auto segments) { CopyWords(entry, segments); })) {
      return false;
    }
    entry.message.reset();
  }
  sent_ = 0;
  return true;
}

OutgoingMessage WrittenMessages::Next(bool keep) {
  Entry& entry = entries_[sent_++];
  if (!entry.message) return Build(entry);
  if (!keep) return std::move(entry.message);
  entry.segments.clear();
  for (const Segment& segment : entry.message->Segments()) entry.segments.push_back(segment);
  OutgoingMessage sent = transport::ShareMessage(*entry.message, SIZE_MAX);
  return std::exchange(entry.message, std::move(sent));
}

void WrittenMessages::DropSent() {
  entries_.erase(entries_.begin(), entries_.begin() + static_cast<ptrdiff_t>(sent_));
  sent_ = 0;
}

OutgoingMessage WrittenMessages::Build(const Entry& entry) const {
  absl::InlinedVector<Segment, 1> segments;
  const auto* words = reinterpret_cast<const capnp::word*>(words_.data() + entry.begin);
  size_t bytes = 0;
  for (const Segment& segment : entry.segments) {
    segments.push_back(kj::arrayPtr(words, segment.size()));
    words += segment.size();
    bytes += segment.size() * sizeof(capnp::word);
  }
  // It is our own message, which needs no bounds.
  capnp::ReaderOptions unbounded;
  unbounded.traversalLimitInWords = UINT64_MAX;
  unbounded.nestingLimit = INT_MAX;
  capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments.data(), segments.size()),
                                          unbounded);
  OutgoingMessage message = transport::NewHeapMessage(bytes);
  message->setRoot(reader.getRoot<capnp::AnyPointer>());
  return message;
}

}  // namespace mi7
