#pragma once

// Participants: who takes part in a pipe, and who of them is dead.
//
// Participant i holds an exclusive lock on byte i of the pipe's file through its own open file
// description (F_OFD_SETLK), which the kernel frees when the last descriptor of that description is
// closed: at exit, however it comes. Lock first, then ALIVE; so ALIVE with a free lock means dead.
// Process ids are for people only: they come again, and mean nothing in another namespace.
//
// Recovery of participant i happens under i's lock, so it is exclusive, and goes on elsewhere when
// the recoverer dies. Threads of one participant share its open file description, and the locks
// with it: the caller keeps them apart (Recover).

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "transport/slot_pipe/protocol.h"
#include "transport/slot_pipe/region.h"

namespace mi7::slot_pipe_internal {

// One row of the table, for people.
struct ParticipantInfo {
  uint32_t index = 0;
  uint32_t pid = 0;  // in the namespace of the participant
  uint64_t joined_unix_ns = 0;
  std::string name;
  bool alive = false;  // false: dead, and not recovered yet
};

// A view of the file and its table. Not thread-safe but for List.
class Participants {
 public:
  Participants(int fd, const Region& region) : fd_(fd), region_(region) {}

  // Takes a free entry, or one of a dead participant after sweeping it, and marks it ALIVE.
  // RESOURCE_EXHAUSTED when all are in use, for 40 ms (someone may be sweeping one); ABORTED when
  // the pipe was removed since it was opened, or somebody is about to: it is to be opened anew, and
  // perhaps to be created.
  absl::StatusOr<uint16_t> Join(absl::string_view name);
  // After a sweep of `index`, which is ours: marks it free and unlocks it.
  void Leave(uint16_t index);

  struct Recovered {
    uint32_t participants = 0;
    uint32_t slots = 0;
  };
  // Sweeps all that are dead now. `me` is not looked at; kNoOwner to look at all.
  Recovered Recover(uint16_t me);

  // `me` is alive, which its own descriptor cannot tell.
  std::vector<ParticipantInfo> List(uint16_t me) const;

 private:
  bool Lock(uint16_t index);
  bool SetLock(short type, uint16_t index);
  void Unlock(uint16_t index);
  absl::StatusOr<uint16_t> TakePlace(absl::string_view name);
  absl::StatusOr<uint16_t> TakeFreePlace(absl::string_view name);
  // Whether nobody holds the lock. Also through a descriptor that can only read.
  bool IsUnlocked(uint16_t index) const;
  bool SweepLocked(uint16_t index, Recovered& recovered);

  const int fd_;
  const Region region_;
};

}  // namespace mi7::slot_pipe_internal
