#pragma once

// The streams of subject "mi7", from a thread of the client's that writes or reads in the blocking
// way, or from callbacks on its event loop. The flow control is the one that everybody has.

#include <memory>

#include "absl/status/status.h"
#include "bench/harness/recorder.h"
#include "bench/harness/workload.h"
#include "rpc/channel.h"
#include "transport/event_loop.h"

namespace mi7::bench {

// Sends or takes messages of interface Sink as workload.call says, which is a stream or an echo
// over one, until the recorder has enough. `loop` is the channel's. Blocks.
absl::Status RunStream(const std::shared_ptr<Channel>& channel, transport::EventLoop& loop,
                       const Workload& workload, Recorder& recorder);

}  // namespace mi7::bench
