#pragma once

// Whether a thread may wait for what connections bring.

namespace mi7::transport {

// Whether the calling thread drives connections at this moment, or is an event loop's: a wait on it
// would be for its own work, or keep that of others waiting. Any thread.
bool OnDrivingThread();

}  // namespace mi7::transport
