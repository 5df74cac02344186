// Looking at a pipe: Status, Inspect, StateOf, List, Remove.

#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "transport/slot_pipe/slot_pipe_impl.h"

namespace mi7 {

using slot_pipe_internal::AboutPipe;
using slot_pipe_internal::kNoOwner;
using slot_pipe_internal::Participants;
using slot_pipe_internal::PipeFile;
using slot_pipe_internal::Region;
using slot_pipe_internal::SlotHeader;
using slot_pipe_internal::SlotPhase;
using slot_pipe_internal::SlotWord;

namespace slot_pipe_internal {
namespace {

SlotState StateOfSlot(const SlotHeader& header, SlotWord word) {
  switch (word.phase()) {
    case SlotPhase::kEmpty:
      return SlotState::kEmpty;
    case SlotPhase::kWriting:
    case SlotPhase::kReading:
    case SlotPhase::kReadingDeadLetter:
      // Relaxed: for people only, and others go on meanwhile. The word that it is compared with has
      // a generation, so that what was handed on long ago is not taken for this.
      if (header.handed.load(std::memory_order_relaxed) == word.bits()) {
        return SlotState::kInProgress;
      }
      return word.phase() == SlotPhase::kWriting ? SlotState::kWriting : SlotState::kReading;
    case SlotPhase::kReady:
    case SlotPhase::kRequeue:
      return SlotState::kReady;
    case SlotPhase::kDeadLetter:
      return SlotState::kDeadLetter;
  }
  return SlotState::kDeadLetter;  // damaged: of no use to anybody
}

uint32_t& CountOf(PipeStatus& status, SlotState state) {
  switch (state) {
    case SlotState::kEmpty:
      return status.empty;
    case SlotState::kWriting:
      return status.writing;
    case SlotState::kReady:
      return status.ready;
    case SlotState::kReading:
      return status.reading;
    case SlotState::kInProgress:
      return status.in_progress;
    case SlotState::kDeadLetter:
      break;
  }
  return status.dead_letters;
}

}  // namespace

uint64_t Checksum(const std::byte* data, uint32_t size, uint32_t kind) {
  constexpr uint64_t kOdd = 0x9E37'79B9'7F4A'7C15;  // 2^64 / golden ratio
  uint64_t sum = (uint64_t{kind} << 32 | size) * kOdd;
  const auto mix = [&sum](uint64_t word) {
    sum = (sum ^ word) * kOdd;
    sum ^= sum >> 29;
  };
  uint32_t at = 0;
  for (; at + 8 <= size; at += 8) {
    uint64_t word;
    std::memcpy(&word, data + at, 8);
    mix(word);
  }
  uint64_t rest = 0;
  if (at < size) std::memcpy(&rest, data + at, size - at);
  mix(rest);
  return sum;
}

PipeStatus StatusOf(const Region& region, const Participants& participants, absl::string_view name,
                    uint64_t created_unix_ns, uint16_t me, bool forked) {
  const Geometry& geometry = region.geometry();
  PipeStatus status;
  status.name = std::string(name);
  status.options = {.slots = geometry.slots,
                    .slot_bytes = geometry.slot_bytes,
                    .participants = geometry.participants,
                    .attempts_max = geometry.attempts_max,
                    .checksum = (geometry.flags & kFlagChecksum) != 0,
                    .group = std::nullopt};
  status.created = absl::FromUnixNanos(static_cast<int64_t>(created_unix_ns));

  std::map<uint16_t, uint32_t> owned;
  // Relaxed, all words and counts: each is one of some moment, they are of different moments
  // anyway, and nothing that they guard is touched.
  for (uint32_t index = 0; index < geometry.slots; ++index) {
    const SlotHeader& header = region.slot(index);
    const SlotWord word(header.word.load(std::memory_order_relaxed));
    ++CountOf(status, StateOfSlot(header, word));
    if (word.OwnedBy(word.owner())) ++owned[word.owner()];
    // Each cycle of a slot is a message that was released.
    status.received += word.cycle();
    status.sent += word.cycle();
    if (word.phase() != SlotPhase::kEmpty && word.phase() != SlotPhase::kWriting && word.sound()) {
      ++status.sent;
    }
  }
  const SharedWords& words = region.words();
  // A cycle that came round.
  const uint64_t rounds = words.cycles_wrapped.load(std::memory_order_relaxed);
  status.received += rounds << SlotWord::kCycleBits;
  status.sent += rounds << SlotWord::kCycleBits;
  status.redelivered = words.redelivered.load(std::memory_order_relaxed);
  status.dead_lettered = words.dead_lettered.load(std::memory_order_relaxed);
  status.recovered_participants = words.recovered_participants.load(std::memory_order_relaxed);
  status.recovered_slots = words.recovered_slots.load(std::memory_order_relaxed);
  for (const ParticipantInfo& info : participants.List(me)) {
    const auto slots = owned.find(static_cast<uint16_t>(info.index));
    status.participants.push_back(
        {.index = info.index,
         .pid = info.pid,
         .name = info.name,
         .joined = absl::FromUnixNanos(static_cast<int64_t>(info.joined_unix_ns)),
         .alive = info.alive || forked,
         .slots_owned = slots == owned.end() ? 0 : slots->second});
  }
  return status;
}

}  // namespace slot_pipe_internal

absl::string_view SlotStateName(SlotState state) {
  switch (state) {
    case SlotState::kEmpty:
      return "empty";
    case SlotState::kWriting:
      return "writing";
    case SlotState::kReady:
      return "ready";
    case SlotState::kReading:
      return "reading";
    case SlotState::kInProgress:
      return "in progress";
    case SlotState::kDeadLetter:
      return "dead letter";
  }
  return "unknown";
}

absl::StatusOr<SlotState> SlotPipe::StateOf(uint32_t index) const {
  if (index >= slots()) {
    return AboutPipe(name(), SlotPipeError::kNoSuchSlot,
                     absl::InvalidArgumentError(
                         absl::StrCat("it has no slot ", index, ", only 0 to ", slots() - 1)));
  }
  const SlotHeader& header = impl_->region.slot(index);
  // Acquire: who learns of a state may act on what had led to it.
  return slot_pipe_internal::StateOfSlot(header,
                                         SlotWord(header.word.load(std::memory_order_acquire)));
}

absl::StatusOr<std::vector<std::string>> SlotPipe::List() {
  return slot_pipe_internal::ListPipeFiles();
}

absl::StatusOr<PipeStatus> SlotPipe::Inspect(absl::string_view name) {
  const auto file = PipeFile::Open(name, PipeFile::Access::kReadOnly);
  if (!file.ok()) return file.status();
  const Region& region = (*file)->region();
  return slot_pipe_internal::StatusOf(region, Participants((*file)->fd(), region), name,
                                      (*file)->created_unix_ns(), kNoOwner, false);
}

absl::Status SlotPipe::Remove(absl::string_view name, bool even_in_use) {
  if (even_in_use) return slot_pipe_internal::UnlinkPipeFile(name);
  const absl::StatusOr<PipeStatus> status = Inspect(name);
  if (status.ok()) {
    // To tell who it is. Who comes after this look has a lock.
    for (const PipeParticipant& participant : status->participants) {
      if (!participant.alive) continue;
      return AboutPipe(name, SlotPipeError::kInUse,
                       absl::FailedPreconditionError(absl::StrCat(
                           "'", participant.name, "' (process ", participant.pid,
                           ") takes part in it; stop it, or remove the pipe by force")));
    }
  } else if (absl::IsFailedPrecondition(status.status())) {
    // Of another version: who takes part is not known.
    return slot_pipe_internal::WithError(
        SlotPipeErrorOf(status.status()),
        absl::FailedPreconditionError(absl::StrCat(
            status.status().message(), "; if nobody takes part in it, remove the pipe by force")));
  } else if (!absl::IsDataLoss(status.status())) {
    return status.status();
  }
  return slot_pipe_internal::UnlinkUnusedPipeFile(name);
}

}  // namespace mi7
