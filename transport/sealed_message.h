#pragma once

// For transports: what is known of a message once it is sealed.

#include <capnp/message.h>

#include "transport/message.h"

namespace mi7::transport {

// MessageBody::Segments of a message that was sealed and not changed since, without asking Cap'n
// Proto for them again. Any kind of memory.
kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> SealedSegments(MessageBody& message);

}  // namespace mi7::transport
