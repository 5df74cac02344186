#include "transport/slot_pipe/participants.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/slot_pipe/slot_pipe_error.h"

namespace mi7::slot_pipe_internal {
namespace {

// For a free place, a millisecond after each other: far longer than a sweep takes, unless who
// sweeps is stopped.
constexpr int kLooksMax = 40;

struct flock LockOf(short type, uint16_t index) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = index;
  lock.l_len = 1;
  return lock;
}

absl::StatusOr<uint16_t> BeingRemoved(absl::string_view text) {
  return WithError(SlotPipeError::kBeingRemoved, absl::AbortedError(text));
}

bool IsHeldByOthers(int error) { return error == EAGAIN || error == EACCES; }

absl::Status LockFailed(absl::string_view what, int error) {
  return WithError(
      SlotPipeError::kSystem,
      absl::InternalError(absl::StrCat("locking ", what, " of its file: ", ::strerror(error))));
}

}  // namespace

bool Participants::SetLock(short type, uint16_t index) {
  struct flock lock = LockOf(type, index);
  return ::fcntl(fd_, F_OFD_SETLK, &lock) == 0;
}

bool Participants::Lock(uint16_t index) { return SetLock(F_WRLCK, index); }
void Participants::Unlock(uint16_t index) { SetLock(F_UNLCK, index); }

bool Participants::IsUnlocked(uint16_t index) const {
  struct flock lock = LockOf(F_WRLCK, index);
  return ::fcntl(fd_, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

bool Participants::SweepLocked(uint16_t index, Recovered& recovered) {
  const Swept swept = Protocol(region_, index).Sweep(index);
  recovered.slots += swept.committed + swept.emptied + swept.requeued + swept.dead_lettered;
  // Relaxed, both: counts.
  region_.words().recovered_slots.fetch_add(
      swept.committed + swept.emptied + swept.requeued + swept.dead_lettered,
      std::memory_order_relaxed);
  if (!swept.complete) return false;
  ++recovered.participants;
  region_.words().recovered_participants.fetch_add(1, std::memory_order_relaxed);
  // Release: who finds the entry free finds nothing that it owns.
  region_.participant(index).state.store(kParticipantFree, std::memory_order_release);
  return true;
}

absl::StatusOr<uint16_t> Participants::Join(absl::string_view name) {
  // Whoever removes the pipe comes before this, and then it has no name any more, or finds our
  // place taken.
  if (!SetLock(F_RDLCK, kJoinByte)) {
    if (!IsHeldByOthers(errno)) return LockFailed("the byte of who joins", errno);
    return BeingRemoved("it is being removed; try again, or remove it by force");
  }
  struct stat about;
  absl::StatusOr<uint16_t> me = ::fstat(fd_, &about) == 0 && about.st_nlink == 0
                                    ? BeingRemoved("it was removed at this moment; try again")
                                    : TakePlace(name);
  Unlock(kJoinByte);
  return me;
}

absl::StatusOr<uint16_t> Participants::TakePlace(absl::string_view name) {
  // A place whose dead one is being swept looks like that of one who is alive, and is free soon.
  for (int looks = 1;; ++looks) {
    absl::StatusOr<uint16_t> place = TakeFreePlace(name);
    if (!absl::IsResourceExhausted(place.status()) || looks == kLooksMax) return place;
    constexpr timespec kBetweenLooks{0, 1'000'000};
    ::nanosleep(&kBetweenLooks, nullptr);
  }
}

absl::StatusOr<uint16_t> Participants::TakeFreePlace(absl::string_view name) {
  const uint32_t count = region_.geometry().participants;
  for (uint32_t i = 0; i < count; ++i) {
    const auto index = static_cast<uint16_t>(i);
    if (!Lock(index)) {
      if (IsHeldByOthers(errno)) continue;
      return LockFailed(absl::StrCat("participant ", i), errno);
    }
    ParticipantEntry& entry = region_.participant(index);
    // Acquire: what a sweep of the one before did is done. Anything but FREE is swept.
    Recovered recovered;
    if (entry.state.load(std::memory_order_acquire) != kParticipantFree &&
        !SweepLocked(index, recovered)) {
      Unlock(index);
      continue;
    }
    // Relaxed, all of it: published by the state below, and for people only.
    entry.pid.store(static_cast<uint32_t>(::getpid()), std::memory_order_relaxed);
    entry.joined_unix_ns.store(UnixNanos(), std::memory_order_relaxed);
    char text[sizeof(entry.name)] = {};
    std::memcpy(text, name.data(), std::min(name.size(), sizeof(text) - 1));
    for (size_t word = 0; word < sizeof(text) / 8; ++word) {
      uint64_t bytes;
      std::memcpy(&bytes, text + 8 * word, 8);
      entry.name[word].store(bytes, std::memory_order_relaxed);
    }
    // Release: whoever sees us alive sees who we are. And before anything that we do to a slot.
    entry.state.store(kParticipantAlive, std::memory_order_seq_cst);
    return index;
  }
  return WithError(
      SlotPipeError::kParticipantTableFull,
      absl::ResourceExhaustedError(absl::StrCat(
          "all ", count,
          " places for participants are taken; create it with more, or let one leave")));
}

void Participants::Leave(uint16_t index) {
  // Release: who finds the entry free finds nothing that it owns.
  region_.participant(index).state.store(kParticipantFree, std::memory_order_release);
  Unlock(index);
}

Participants::Recovered Participants::Recover(uint16_t me) {
  Recovered recovered;
  for (uint32_t i = 0; i < region_.geometry().participants; ++i) {
    const auto index = static_cast<uint16_t>(i);
    if (index == me) continue;
    ParticipantEntry& entry = region_.participant(index);
    // Acquire is more than this look needs, which only spares us the lock; the next one decides.
    if (entry.state.load(std::memory_order_acquire) == kParticipantFree || !Lock(index)) continue;
    // Again, now that nobody else changes it. What the dead one did is ordered before by its lock
    // (W5), what a sweep before ours did by acquire: its last word was this state.
    if (entry.state.load(std::memory_order_acquire) != kParticipantFree) {
      SweepLocked(index, recovered);
    }
    Unlock(index);
  }
  return recovered;
}

std::vector<ParticipantInfo> Participants::List(uint16_t me) const {
  std::vector<ParticipantInfo> all;
  for (uint32_t i = 0; i < region_.geometry().participants; ++i) {
    const ParticipantEntry& entry = region_.participant(i);
    // Acquire: who is alive has written who it is. Relaxed below: one that leaves and one that
    // comes meanwhile may be mixed up, and people be told so for once.
    if (entry.state.load(std::memory_order_acquire) == kParticipantFree) continue;
    ParticipantInfo info;
    info.index = i;
    info.pid = entry.pid.load(std::memory_order_relaxed);
    info.joined_unix_ns = entry.joined_unix_ns.load(std::memory_order_relaxed);
    char text[sizeof(entry.name) + 1] = {};
    for (size_t word = 0; word < sizeof(entry.name) / 8; ++word) {
      const uint64_t bytes = entry.name[word].load(std::memory_order_relaxed);
      std::memcpy(text + 8 * word, &bytes, 8);
    }
    info.name = text;
    info.alive = i == me || !IsUnlocked(static_cast<uint16_t>(i));
    all.push_back(std::move(info));
  }
  return all;
}

}  // namespace mi7::slot_pipe_internal
