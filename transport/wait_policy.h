#pragma once

// How a thread waits for the next message.

#include <cstdint>

namespace mi7::transport {

// A choice between latency and the use of CPUs; of a loop, or of threads in Connection::Await.
enum class WaitPolicy : uint8_t {
  // Poll for 50 us by the clock, while that has paid lately, yielding the CPU between polls, then
  // sleep. The default.
  kAdaptive,
  // Poll without end. Lowest latency; costs a CPU a waiting thread.
  kSpin,
  // Sleep at once. Lowest CPU use.
  kBlock,
};

}  // namespace mi7::transport
