#pragma once

// Reading received Cap'n Proto messages within limits.

#include <cstdint>
#include <cstring>
#include <exception>
#include <optional>

#include <capnp/message.h>
#include <kj/exception.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "rpc/pointer_check.h"
#include "transport/message.h"

namespace mi7 {

// Options for a message of `words` words: the traversal limit grows with the message, so that a
// small hostile message with overlapping pointers cannot make us read much more than its size.
inline capnp::ReaderOptions ReaderOptionsFor(size_t words, const Limits& limits) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords =
      uint64_t{words} * limits.traversal_factor + limits.traversal_words_extra;
  options.nestingLimit = static_cast<int>(limits.nesting_max);
  return options;
}

// The segment count of a flat message, checked before Cap'n Proto 0.9's FlatArrayMessageReader,
// which allocates for whatever count it reads.
inline absl::Status CheckSegmentCount(kj::ArrayPtr<const capnp::word> words, const Limits& limits) {
  if (words.size() == 0) return absl::InvalidArgumentError("empty message");
  uint32_t last_segment;
  __builtin_memcpy(&last_segment, words.begin(), sizeof(last_segment));
  if (last_segment >= limits.segments_max) {
    return absl::InvalidArgumentError(absl::StrCat("message of ", uint64_t{last_segment} + 1,
                                                   " segments, segments_max is ",
                                                   limits.segments_max));
  }
  return absl::OkStatus();
}

// A Cap'n Proto reader over the body of a received message, in place. The message must outlive it,
// and not be moved.
class BodyReader final : public capnp::SegmentArrayMessageReader {
 public:
  BodyReader(const transport::IncomingMessage& message, const Limits& limits)
      : capnp::SegmentArrayMessageReader(
            kj::arrayPtr(message.segments().data(), message.segments().size()),
            ReaderOptionsFor(message.header().size / sizeof(capnp::word), limits)) {}
};

// The body of one received message. Makes a Cap'n Proto arena only for a message that needs one: a
// root struct without pointers is checked here and read where it lies, and so is a small message
// with few pointers in memory that nobody else can change.
class Body {
 public:
  // The root struct of `message`, which must be the same one every time and outlive the Body.
  // Throws kj::Exception when the root is malformed.
  template <typename T>
  typename T::Reader Root(const transport::IncomingMessage& message, const Limits& limits) {
    if (const std::optional<DataOnly> data = RootWithoutPointers(message)) [[likely]] {
      return capnp::readDataStruct<T>(kj::arrayPtr(data->words, data->count));
    }
    return RootWithPointers<T>(message, limits);
  }

 private:
  struct DataOnly {
    const capnp::word* words;
    size_t count;
  };

  // A struct pointer: bits 0-1 are 0, 2-31 the signed distance in words from the pointer's end to
  // the struct, 32-47 its data words, 48-63 its pointers (https://capnproto.org/encoding.html). The
  // null pointer is an empty struct.
  static std::optional<DataOnly> RootWithoutPointers(const transport::IncomingMessage& message) {
    const auto segments = message.segments();
    if (segments.size() != 1 || segments[0].size() == 0) return std::nullopt;
    uint64_t pointer;
    std::memcpy(&pointer, segments[0].begin(), sizeof(pointer));
    constexpr uint64_t kEmptyStruct = 0xffff'fffc;  // lies at its own pointer
    if (pointer == kEmptyStruct) return DataOnly{segments[0].begin(), 0};
    constexpr uint64_t kNoPlainStruct = 0xffff'0000'8000'0003;  // pointers, negative, other kinds
    if ((pointer & kNoPlainStruct) != 0) return std::nullopt;
    const uint64_t distance = static_cast<uint32_t>(pointer) >> 2;
    const uint64_t count = pointer >> 32;
    if (1 + distance + count > segments[0].size()) return std::nullopt;
    return DataOnly{segments[0].begin() + 1 + distance, count};
  }

  // A function of its own, so that Root is small enough to become a part of its callers.
  template <typename T>
  [[gnu::noinline]] typename T::Reader RootWithPointers(const transport::IncomingMessage& message,
                                                        const Limits& limits) {
    if (!reader_) {
      if constexpr (capnp::kind<T>() == capnp::Kind::STRUCT) {
        static const bool all_is_typed = !MentionsAnyPointer(capnp::Schema::from<T>());
        if (all_is_typed && IsReadUnchecked(message, limits)) {
          return capnp::readMessageUnchecked<T>(message.segments()[0].begin());
        }
      }
      reader_.emplace(message, limits);
    }
    return reader_->template getRoot<T>();
  }

  static bool IsReadUnchecked(const transport::IncomingMessage& message, const Limits& limits) {
    // For a larger one a reader is cheap beside what it reads, and bounds how often it is read.
    constexpr size_t kWordsMax = 512;
    if (!message.memory_is_private() || message.segments().size() != 1) return false;
    const auto segment = message.segments()[0];
    // No more is read than the segment has; a reader could be allowed less.
    return segment.size() <= kWordsMax &&
           ReaderOptionsFor(segment.size(), limits).traversalLimitInWords >= segment.size() &&
           PointersAreSound(segment, limits.nesting_max);
  }

  std::optional<BodyReader> reader_;
};

// The status for the exception that is being handled; call inside a catch block.
// `malformed`: the code when Cap'n Proto found a received message broken while reading it.
// Everything else becomes INTERNAL. `what`: who threw, begins the message ("handler of X.y").
absl::Status StatusOfException(absl::StatusCode malformed, absl::string_view what);

}  // namespace mi7
