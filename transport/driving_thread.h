#pragma once

// What a thread may know, inside callbacks of connections, of how it came to be there.

#include <cstdint>

namespace mi7::transport {

// Whether the calling thread drives connections at this moment, or is an event loop's: a wait on it
// would be for its own work, or keep that of others waiting. Any thread.
bool OnDrivingThread();

// A time (MonotonicNanos) by which the message that is being delivered on this thread had arrived:
// now, or, where it was received together with others, when this was first asked about one of them.
// What is done for the others meanwhile does not count as time on the way.
int64_t ArrivedNanos();

}  // namespace mi7::transport
