#pragma once

// What waits to be sent on a connection: how much may, and how a call is taken back.

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/limits.h"
#include "transport/frame.h"
#include "transport/message.h"

namespace mi7::transport {

// What waits to be sent on a connection.
struct Queued {
  // Memory that a message takes at least, however small it is: its block.
  static constexpr uint64_t kMessageBytesLeast = 4096;

  uint64_t bytes = 0;
  uint64_t messages = 0;

  Queued With(uint64_t more_bytes, uint64_t more_messages) const {
    return {bytes + more_bytes, messages + more_messages};
  }
  // What counts for limits.queued_bytes_max and unread_answer_bytes_max.
  uint64_t weight() const { return std::max(bytes, messages * kMessageBytesLeast); }
  // Whether streams need not wait (Connection::HasRoom).
  bool HasRoom(const Limits& limits) const {
    return bytes < StreamMark(limits) && weight() < limits.queued_bytes_max;
  }
  // Whether so little is queued that OnWritable tells of room.
  bool IsLow(const Limits& limits) const {
    return bytes <= StreamMark(limits) / 2 && IsHalf(limits);
  }
  // Whether one that has paused for a full queue reads on.
  bool IsHalf(const Limits& limits) const { return weight() <= limits.queued_bytes_max / 2; }
};

// Of answers, errors and control messages up to this are never refused: there are as many as calls.
inline constexpr uint64_t kSmallAnswerBytes = 1024;

// Queued::weight that may wait, the sealed message with `header` included, unless it is the only
// one. Streams are bounded by Connection::HasRoom.
inline uint64_t QueueBound(const Limits& limits, bool accepted, const FrameHeader& header) {
  // One at most a call: a server that does not hear of it works in vain.
  if (header.type == FrameType::kCancel) return UINT64_MAX;
  if (IsStreamFrame(header.type)) return UINT64_MAX;
  if (!accepted) return limits.queued_bytes_max;
  if (header.size <= kSmallAnswerBytes) return UINT64_MAX;
  return std::max(limits.queued_bytes_max, limits.unread_answer_bytes_max);
}

// Why an answer exceeds QueueBound.
inline absl::Status AnswersUnread(const Limits& limits, uint64_t bytes, uint64_t waiting) {
  return absl::ResourceExhaustedError(
      absl::StrCat("message of ", bytes, " bytes: limits.unread_answer_bytes_max is ",
                   limits.unread_answer_bytes_max, " bytes, and ", waiting,
                   " wait for the client, which does not read them"));
}

// Messages that a search looks at, so that giving up many calls that wait costs little each.
inline constexpr int kQueueSearchMax = 1024;

// Takes the call with `call_id` out of the queue from `first` to `last`, linked by `next`, looking
// behind `after` when that is not nullptr, and not at too many. Empty: it was not found.
inline OutgoingMessage TakeCall(MessageBody*& first, MessageBody*& last, MessageBody* after,
                                uint32_t call_id) {
  MessageBody* body = after == nullptr ? first : after->next;
  for (int i = 0; body != nullptr && i < kQueueSearchMax; ++i) {
    if (body->header.type == FrameType::kCall && body->header.call_id == call_id) {
      (after == nullptr ? first : after->next) = body->next;
      if (last == body) last = after;
      return OutgoingMessage(body);
    }
    after = body;
    body = body->next;
  }
  return {};
}

}  // namespace mi7::transport
