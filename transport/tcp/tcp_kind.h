#pragma once

// TCP, as its stream connections know it.

#include "transport/stream/stream_context.h"

namespace mi7::transport {

// The same object each time. Thread-safe.
const StreamKind* TcpKind();

}  // namespace mi7::transport
