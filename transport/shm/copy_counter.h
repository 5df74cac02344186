#pragma once

// How many bytes of messages were copied on shared-memory connections of this process, for tests
// that hold "zero copies" to account. What rides in the ring's cells is not counted.

#include <atomic>
#include <cstdint>

namespace mi7::transport::shm {

// Relaxed: a count.
inline constinit std::atomic<uint64_t> copied_payload_bytes{0};

}  // namespace mi7::transport::shm
