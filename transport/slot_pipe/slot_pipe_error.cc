#include "transport/slot_pipe/slot_pipe_error.h"

#include <cstddef>
#include <iterator>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"

namespace mi7 {
namespace {

// The payload of a status by which it is known; its value is the name.
constexpr absl::string_view kPayload = "mi7/slot_pipe_error";

// In the order of SlotPipeError.
constexpr absl::string_view kNames[] = {
    "",
    "no such pipe",
    "exists",
    "name invalid",
    "options invalid",
    "geometry mismatch",
    "version mismatch",
    "permission denied",
    "unsafe file",
    "participant table full",
    "tmpfs full",
    "system limit",
    "in use",
    "being removed",
    "system",
    "pipe full",
    "pipe empty",
    "no dead letter",
    "message too large",
    "not capnp",
    "no such slot",
    "wrong slot state",
    "ring full",
    "cancelled",
    "forked",
    "damaged",
    "overwritten",
};
static_assert(std::size(kNames) == static_cast<size_t>(SlotPipeError::kOverwritten) + 1);

}  // namespace

SlotPipeError SlotPipeErrorOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return SlotPipeError::kNone;
  for (size_t i = 1; i < std::size(kNames); ++i) {
    if (*payload == kNames[i]) return static_cast<SlotPipeError>(i);
  }
  return SlotPipeError::kNone;
}

absl::string_view SlotPipeErrorName(SlotPipeError error) {
  const auto index = static_cast<size_t>(error);
  return index < std::size(kNames) ? kNames[index] : "";
}

namespace slot_pipe_internal {

absl::Status WithError(SlotPipeError error, absl::Status status) {
  if (!status.ok() && SlotPipeErrorOf(status) == SlotPipeError::kNone) {
    status.SetPayload(kPayload, absl::Cord(SlotPipeErrorName(error)));
  }
  return status;
}

absl::Status AboutPipe(absl::string_view name, const absl::Status& status) {
  if (status.ok()) return status;
  absl::Status about(status.code(), absl::StrCat("slot pipe '", name, "': ", status.message()));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { about.SetPayload(url, payload); });
  return about;
}

}  // namespace slot_pipe_internal
}  // namespace mi7
