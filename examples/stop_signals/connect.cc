#include "examples/stop_signals/connect.h"

#include <atomic>

namespace examples {

absl::Status ConnectUnlessStopped(mi7::Channel& channel, mi7::Deadline deadline,
                                  const std::optional<StopSignals>& signals) {
  // Relaxed: the thread that stores it is joined before it is looked at.
  std::atomic<bool> stopped{false};
  absl::Status connected;
  {
    std::optional<OnStop> on_stop;
    if (signals.has_value()) {
      on_stop.emplace(*signals, [&stopped, &channel] {
        stopped.store(true, std::memory_order_relaxed);
        channel.Close();
      });
    }
    connected = channel.Connect(deadline);
  }
  if (stopped.load(std::memory_order_relaxed)) return absl::CancelledError("interrupted");
  return connected;
}

}  // namespace examples
