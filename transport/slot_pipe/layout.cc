#include "transport/slot_pipe/layout.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "transport/slot_pipe/slot_pipe_error.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr uint64_t kPageBytes = 4096;
// A short ring would come round quickly, and cells' laps with it.
constexpr uint32_t kCellsMin = 256;

constexpr uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

absl::Status CheckRange(absl::string_view name, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return WithError(SlotPipeError::kOptionsInvalid,
                   absl::InvalidArgumentError(
                       absl::StrCat(name, " is ", value, ", must be from ", least, " to ", most)));
}

absl::Status Damaged(absl::string_view text) {
  return WithError(SlotPipeError::kDamaged, absl::DataLossError(text));
}

// Of the header, with its checksum taken as zero.
uint64_t HeaderChecksum(PipeHeader header) {
  header.checksum = 0;
  uint64_t words[sizeof(header) / 8];
  std::memcpy(words, &header, sizeof(header));
  uint64_t sum = 0;
  for (const uint64_t word : words) {
    sum = (sum ^ word) * 0x9E37'79B9'7F4A'7C15;  // odd, so that no bit is lost
    sum ^= sum >> 29;
  }
  return sum;
}

}  // namespace

uint64_t UnixNanos() {
  timespec now;
  ::syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

absl::StatusOr<Layout> MakeLayout(const Geometry& geometry) {
  for (const absl::Status& status :
       {CheckRange("slots", geometry.slots, 1, kSlotsMax),
        CheckRange("slot_bytes", geometry.slot_bytes, 8, kSlotBytesMax),
        CheckRange("participants", geometry.participants, 1, kParticipantsMax),
        CheckRange("attempts_max", geometry.attempts_max, 0, kAttemptsLimit - 1)}) {
    if (!status.ok()) return status;
  }
  Layout layout;
  layout.geometry = geometry;
  layout.cells = std::bit_ceil(std::max(2 * geometry.slots, kCellsMin));
  layout.cells_log2 = static_cast<uint32_t>(std::countr_zero(layout.cells));
  layout.hint_words = (geometry.slots + 63) / 64;
  layout.participants_offset = RoundUp(kHintsOffset + 8 * layout.hint_words, kLineBytes);
  layout.cells_offset =
      layout.participants_offset + uint64_t{geometry.participants} * sizeof(ParticipantEntry);
  layout.slots_offset = RoundUp(layout.cells_offset + 8 * uint64_t{layout.cells}, kPageBytes);
  layout.slot_stride = RoundUp(sizeof(SlotHeader) + uint64_t{geometry.slot_bytes}, kLineBytes);
  // Slots whose headers lie a multiple of 4 KiB apart would share a few sets of the cache.
  if (layout.slot_stride % kPageBytes == 0) layout.slot_stride += kLineBytes;
  layout.file_bytes =
      RoundUp(layout.slots_offset + geometry.slots * layout.slot_stride, kPageBytes);
  return layout;
}

PipeHeader MakeHeader(const Layout& layout, uint64_t created_unix_ns) {
  PipeHeader header{};
  header.magic = kPipeMagic;
  header.version = kPipeVersion;
  header.header_bytes = sizeof(PipeHeader);
  header.slots = layout.geometry.slots;
  header.slot_bytes = layout.geometry.slot_bytes;
  header.participants = layout.geometry.participants;
  header.cells = layout.cells;
  header.attempts_max = layout.geometry.attempts_max;
  header.flags = layout.geometry.flags;
  header.participants_offset = layout.participants_offset;
  header.cells_offset = layout.cells_offset;
  header.slots_offset = layout.slots_offset;
  header.slot_stride = layout.slot_stride;
  header.file_bytes = layout.file_bytes;
  header.created_unix_ns = created_unix_ns;
  header.checksum = HeaderChecksum(header);
  return header;
}

absl::StatusOr<Layout> CheckHeader(const PipeHeader& header, uint64_t file_bytes) {
  if (header.magic != kPipeMagic) return Damaged("it is no slot pipe (magic number)");
  if (header.version != kPipeVersion) {
    return WithError(
        SlotPipeError::kVersionMismatch,
        absl::FailedPreconditionError(absl::StrCat("its layout has version ", header.version,
                                                   ", this program speaks version ", kPipeVersion,
                                                   "; use the same version of mi7 on all sides")));
  }
  if ((header.flags & ~kFlagsKnown) != 0) {
    return Damaged(absl::StrCat("its flags are ", header.flags));
  }
  absl::StatusOr<Layout> layout = MakeLayout({.slots = header.slots,
                                              .slot_bytes = header.slot_bytes,
                                              .participants = header.participants,
                                              .attempts_max = header.attempts_max,
                                              .flags = header.flags});
  if (!layout.ok()) return Damaged(layout.status().message());
  // All that the header says follows from its geometry.
  const PipeHeader expected = MakeHeader(*layout, header.created_unix_ns);
  if (std::memcmp(&header, &expected, sizeof(header)) != 0) {
    return Damaged("its header contradicts itself");
  }
  if (file_bytes != layout->file_bytes) {
    return Damaged(
        absl::StrCat("its file has ", file_bytes, " bytes instead of ", layout->file_bytes));
  }
  return layout;
}

}  // namespace mi7::slot_pipe_internal
