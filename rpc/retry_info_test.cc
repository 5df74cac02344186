#include "rpc/retry_info.h"

#include <limits>
#include <optional>

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "rpc/status_details.h"
#include "schema/retry.capnp.h"

namespace mi7 {
namespace {

TEST(RetryInfoTest, AdviceIsReadAsItWasGiven) {
  for (const absl::Duration delay : {absl::ZeroDuration(), absl::Microseconds(1),
                                     absl::Milliseconds(50), absl::InfiniteDuration()}) {
    const absl::Status status = WithRetryAfter(absl::UnavailableError("busy"), delay);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(status.message(), "busy");
    EXPECT_EQ(RetryAfter(status), delay);
  }
}

TEST(RetryInfoTest, DelaysAreRoundedUpAndNegativeOnesAreAtOnce) {
  const absl::Status busy = absl::UnavailableError("busy");
  EXPECT_EQ(RetryAfter(WithRetryAfter(busy, absl::Nanoseconds(1))), absl::Microseconds(1));
  EXPECT_EQ(RetryAfter(WithRetryAfter(busy, -absl::Seconds(1))), absl::ZeroDuration());
}

TEST(RetryInfoTest, LaterAdviceReplacesTheEarlier) {
  const absl::Status status = WithRetryAfter(
      WithRetryAfter(absl::UnavailableError("busy"), absl::Seconds(1)), absl::Seconds(2));
  EXPECT_EQ(RetryAfter(status), absl::Seconds(2));
}

TEST(RetryInfoTest, MostStatusesGiveNone) {
  EXPECT_EQ(RetryAfter(absl::OkStatus()), std::nullopt);
  EXPECT_EQ(RetryAfter(absl::UnavailableError("x")), std::nullopt);
}

TEST(RetryInfoTest, AdviceOfABrokenPeerIsNoneOrBounded) {
  absl::Status malformed = absl::UnavailableError("x");
  malformed.SetPayload(DetailTypeUrl(capnp::typeId<schema::RetryInfo>()), absl::Cord("1234567"));
  EXPECT_EQ(RetryAfter(malformed), std::nullopt);

  absl::Status endless = absl::UnavailableError("x");
  capnp::MallocMessageBuilder message;
  message.initRoot<schema::RetryInfo>().setAfterUs(std::numeric_limits<uint64_t>::max());
  AttachDetail<schema::RetryInfo>(message, endless);
  EXPECT_EQ(RetryAfter(endless), absl::Hours(24));
}

}  // namespace
}  // namespace mi7
