#include "rpc/retry_info.h"

#include <algorithm>
#include <cstdint>

#include <capnp/message.h>

#include "rpc/status_details.h"
#include "schema/retry.capnp.h"

namespace mi7 {
namespace {

// Longer advice from a peer counts as this.
constexpr absl::Duration kAdviceMax = absl::Hours(24);

}  // namespace

absl::Status WithRetryAfter(absl::Status status, absl::Duration delay) {
  capnp::MallocMessageBuilder message(8);
  auto info = message.initRoot<schema::RetryInfo>();
  if (delay == absl::InfiniteDuration()) {
    info.setNever();
  } else {
    info.setAfterUs(static_cast<uint64_t>(
        std::max<int64_t>(0, absl::ToInt64Microseconds(absl::Ceil(delay, absl::Microseconds(1))))));
  }
  AttachDetail<schema::RetryInfo>(message, status);
  return status;
}

std::optional<absl::Duration> RetryAfter(const absl::Status& status) {
  std::optional<absl::Duration> delay;
  if (status.ok()) return delay;
  ReadDetail<schema::RetryInfo>(status, [&](schema::RetryInfo::Reader info) {
    switch (info.which()) {
      case schema::RetryInfo::NEVER:
        delay = absl::InfiniteDuration();
        break;
      case schema::RetryInfo::AFTER_US:
        delay = absl::Microseconds(std::min<uint64_t>(
            info.getAfterUs(), static_cast<uint64_t>(absl::ToInt64Microseconds(kAdviceMax))));
        break;
    }
  });
  return delay;
}

}  // namespace mi7
