#pragma once

// What interceptors do to the messages of a stream.

#include "absl/status/status.h"
#include "rpc/interceptor.h"
#include "transport/message.h"

namespace mi7 {

class Stream;

// OnMessage of each of `interceptors`, for a message that is about to be sent. Not OK: it is not to
// be sent, and why.
absl::Status InterceptOutgoing(const Interceptors& interceptors, const Stream& stream,
                               transport::OutgoingMessage& message);

// The same for one that is about to be given to the user, which may be replaced by a changed copy.
// Not OK: the stream is to end so.
absl::Status InterceptIncoming(const Interceptors& interceptors, const Stream& stream,
                               transport::IncomingMessage& message);

}  // namespace mi7
