#pragma once

// Reading received Cap'n Proto messages within limits.

#include <exception>

#include <capnp/message.h>
#include <kj/exception.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/limits.h"
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

// A Cap'n Proto reader over the body of a received message, in place. The message must outlive it.
class BodyReader final : public capnp::SegmentArrayMessageReader {
 public:
  BodyReader(const transport::IncomingMessage& message, const Limits& limits)
      : capnp::SegmentArrayMessageReader(
            kj::arrayPtr(message.segments().data(), message.segments().size()),
            ReaderOptionsFor(message.header().size / sizeof(capnp::word), limits)) {}
};

// The status for the exception that is being handled; call inside a catch block.
// `malformed`: the code when Cap'n Proto found a received message broken while reading it.
// Everything else becomes INTERNAL. `what`: who threw, begins the message ("handler of X.y").
absl::Status StatusOfException(absl::StatusCode malformed, absl::string_view what);

}  // namespace mi7
