#pragma once

#include <optional>

#include "absl/status/status.h"
#include "base/deadline.h"
#include "examples/stop_signals/stop_signals.h"
#include "rpc/channel.h"

namespace examples {

// channel.Connect(deadline), which the first of `signals`, if there are any, gives up: the channel
// is closed then, and the end CANCELLED, "interrupted".
absl::Status ConnectUnlessStopped(mi7::Channel& channel, mi7::Deadline deadline,
                                  const std::optional<StopSignals>& signals);

}  // namespace examples
