#pragma once

// How many bytes of messages were copied for shared-memory connections of this process, for tests
// that hold "zero copies" to account: on their way, and to be kept for a repetition. What rides in
// the ring's cells is not counted.

#include <atomic>
#include <cstdint>

namespace mi7::transport {

// Relaxed: a count.
inline constinit std::atomic<uint64_t> copied_payload_bytes{0};

}  // namespace mi7::transport
