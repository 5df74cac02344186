#pragma once

// For tests: gmock matchers of absl::Status and absl::StatusOr.
//
//   EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("connection
//   lost"))); EXPECT_THAT(server.status(), IsOk());

#include <ostream>
#include <string>
#include <type_traits>
#include <utility>

#include <gmock/gmock.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "rpc/call_outcome.h"

namespace mi7 {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// Read by gtest when a test fails.
inline void PrintTo(CallOutcome outcome, std::ostream* out) {
  switch (outcome) {
    case CallOutcome::kAnswered:
      *out << "answered";
      return;
    case CallOutcome::kNotSent:
      *out << "not sent";
      return;
    case CallOutcome::kRefused:
      *out << "refused";
      return;
    case CallOutcome::kUnknown:
      *out << "may have run";
      return;
  }
}

MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

// Code and message; the message as a matcher of std::string or a string that must be equal.
template <typename Message>
class StatusIsMatcher {
 public:
  StatusIsMatcher(absl::StatusCode code, Message message)
      : code_(code), message_(std::move(message)) {}

  template <typename T>
  operator testing::Matcher<T>() const {  // NOLINT: gmock's way of polymorphic matchers
    return testing::Matcher<T>(
        new Impl<T>(code_, testing::SafeMatcherCast<const std::string&>(message_)));
  }

 private:
  template <typename T>
  class Impl : public testing::MatcherInterface<T> {
   public:
    Impl(absl::StatusCode code, testing::Matcher<const std::string&> message)
        : code_(code), message_(std::move(message)) {}
    bool MatchAndExplain(T value, testing::MatchResultListener* listener) const override {
      const absl::Status& status = StatusOf(value);
      *listener << status.ToString();
      return status.code() == code_ && message_.Matches(std::string(status.message()));
    }
    void DescribeTo(std::ostream* out) const override {
      *out << "is " << absl::StatusCodeToString(code_) << " with a message that ";
      message_.DescribeTo(out);
    }

   private:
    const absl::StatusCode code_;
    const testing::Matcher<const std::string&> message_;
  };

  const absl::StatusCode code_;
  const Message message_;
};

template <typename Message>
StatusIsMatcher<Message> StatusIs(absl::StatusCode code, Message message) {
  return StatusIsMatcher<Message>(code, std::move(message));
}
inline auto StatusIs(absl::StatusCode code) { return StatusIs(code, testing::_); }

// What is known about whether a failed call has run.
MATCHER_P(OutcomeIs, outcome, "has outcome " + testing::PrintToString(outcome)) {
  *result_listener << StatusOf(arg).ToString();
  return OutcomeOf(StatusOf(arg)) == outcome;
}

}  // namespace mi7
