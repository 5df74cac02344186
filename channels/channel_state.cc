#include "channels/channel_state.h"

namespace mi7::channels_internal {

const absl::Status& FullError() {
  static const auto* const status = new absl::Status(
      absl::StatusCode::kResourceExhausted, "the channel is full; receive from it, or wait");
  return *status;
}

const absl::Status& EmptyError() {
  static const auto* const status =
      new absl::Status(absl::StatusCode::kUnavailable, "the channel is empty; wait for a value");
  return *status;
}

const absl::Status& SendTimeoutError() {
  static const auto* const status = new absl::Status(absl::StatusCode::kDeadlineExceeded,
                                                     "the channel was full until the deadline");
  return *status;
}

const absl::Status& ReceiveTimeoutError() {
  static const auto* const status = new absl::Status(absl::StatusCode::kDeadlineExceeded,
                                                     "the channel was empty until the deadline");
  return *status;
}

const absl::Status& ClosedToSendersError() {
  static const auto* const status =
      new absl::Status(absl::StatusCode::kCancelled, "the channel is closed: nobody receives");
  return *status;
}

const absl::Status& ClosedToReceiversError() {
  static const auto* const status = new absl::Status(
      absl::StatusCode::kCancelled, "the channel is closed, and everything was received");
  return *status;
}

}  // namespace mi7::channels_internal
