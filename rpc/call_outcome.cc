#include "rpc/call_outcome.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace mi7 {
namespace {

struct OutcomeText {
  CallOutcome outcome;
  absl::string_view value;     // of the payload
  absl::string_view sentence;  // in the message
};
constexpr OutcomeText kOutcomes[] = {
    {CallOutcome::kNotSent, "not-sent", "the call was not sent"},
    {CallOutcome::kRefused, "refused", "the call was refused and has not run"},
    {CallOutcome::kUnknown, "unknown", "the call may have run"},
};

}  // namespace

CallOutcome OutcomeOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kOutcomePayload);
  if (!payload.has_value()) return CallOutcome::kAnswered;
  for (const OutcomeText& text : kOutcomes) {
    if (*payload == text.value) return text.outcome;
  }
  return CallOutcome::kAnswered;
}

absl::Status WithoutOutcome(const absl::Status& status) {
  const CallOutcome outcome = OutcomeOf(status);
  for (const OutcomeText& text : kOutcomes) {
    if (text.outcome != outcome) continue;
    absl::string_view message = status.message();
    if (absl::ConsumeSuffix(&message, text.sentence)) absl::ConsumeSuffix(&message, "; ");
    absl::Status result(status.code(), message);
    status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
      if (url != kOutcomePayload) result.SetPayload(url, payload);
    });
    return result;
  }
  return status;
}

absl::Status WithOutcome(const absl::Status& status, CallOutcome outcome) {
  for (const OutcomeText& text : kOutcomes) {
    if (text.outcome != outcome) continue;
    absl::Status result(status.code(), absl::StrCat(status.message(), "; ", text.sentence));
    status.ForEachPayload(
        [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
    result.SetPayload(kOutcomePayload, absl::Cord(text.value));
    return result;
  }
  return status;
}

}  // namespace mi7
