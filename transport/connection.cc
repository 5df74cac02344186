#include "transport/connection.h"

#include "absl/strings/cord.h"

namespace mi7::transport {
namespace {

// Never sent to a peer.
constexpr absl::string_view kQueueFullPayload = "mi7/queue-full";

}  // namespace

absl::Status QueueFullError(absl::string_view text) {
  absl::Status status = absl::ResourceExhaustedError(text);
  status.SetPayload(kQueueFullPayload, absl::Cord());
  return status;
}

bool IsQueueFull(const absl::Status& status) {
  return absl::IsResourceExhausted(status) && status.GetPayload(kQueueFullPayload).has_value();
}

}  // namespace mi7::transport
