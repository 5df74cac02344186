#pragma once

// A queue of messages of whoever owns them, linked by MessageBody::next.

#include <cstdint>

#include "transport/frame.h"
#include "transport/message.h"

namespace mi7::transport {

// Messages that a search looks at, so that giving up many calls that wait costs little each.
inline constexpr int kQueueSearchMax = 1024;

// Takes the call with `call_id` out of the queue from `first` to `last`, looking behind `after`
// when that is not nullptr, and not at too many. Empty: it was not found.
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
