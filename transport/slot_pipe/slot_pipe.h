#pragma once

// SlotPipe: a named, bounded, crash-safe pipe of fixed-size slots in shared memory, between any
// number of producers and consumers in any number of processes of one user. No byte is copied: a
// message is written where it is read.
//
//   slot      one of N places of S bytes. It is empty, being written, ready, or being read.
//   hold      to take an empty slot for writing
//   send      to publish what was written: the commit point
//   fetch     to take the oldest ready slot for reading
//   release   to empty a slot that was read: the consume commit
//   give back to empty a held slot without sending; return: to put a fetched message back
//
//   auto pipe = mi7::SlotPipe::OpenOrCreate("orders");
//   auto slot = (*pipe)->Hold();                       // anywhere
//   std::memcpy(slot->data(), "hello", 5);
//   absl::Status sent = slot->Send(5);
//
//   auto message = (*pipe)->Fetch();                   // here, or in another process
//   std::cout << message->text();
//   absl::Status done = message->Release();
//
// What is promised. A message of which Send returned OK is not lost, whoever is killed, at whatever
// instruction, and is released at most once. A consumer that dies before Release causes a
// redelivery, marked as such (attempt() > 1); after PipeOptions::attempts_max fetches the message
// goes to the dead letters. A producer that dies in Send has sent or has not. One that is stopped
// holds only its own slots: nobody waits for it, but for what a dead one held when it is stopped
// in the middle of recovering that. What the dead held is recovered by whoever is
// alive and uses the pipe: within 40 ms or so where somebody waits in it, else with the first hold
// or fetch after that; time alone never takes anything from anybody. The promises end with the
// machine: nothing is synced to a disk, whatever file system MI7_RUNTIME_DIR is on.
//
// Messages are fetched in the order of their sends; what comes back, because it was returned or
// redriven or because a consumer died, is behind what was sent before it came back.
// docs/SLOT_PIPE.md has the protocol and its proof.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "transport/slot_pipe/slot_pipe_error.h"
#include "transport/slot_pipe/slots.h"
#include "transport/wait_policy.h"

namespace mi7 {

namespace slot_pipe_internal {
template <typename Slot>
class AsyncQueue;
class PipePoll;
}  // namespace slot_pipe_internal

// What a pipe is made of. A value type.
struct PipeOptions {
  uint32_t slots = 100;        // 1 to 16,384
  uint32_t slot_bytes = 4096;  // of one message at most, 8 to 2^30
  uint32_t participants = 64;  // connected at a time, 1 to 4,094
  uint32_t attempts_max = 5;   // fetches of a message, then it is a dead letter; 0: no bound; <= 30
  bool checksum = false;       // of each message, verified when it is fetched
  // Lets the members of this group connect (file mode 0660 instead of 0600). The directory has to
  // let them in, too: set MI7_RUNTIME_DIR to one that does.
  std::optional<uint32_t> group = std::nullopt;

  static PipeOptions Small() { return {.slots = 10, .slot_bytes = 1024}; }
  static PipeOptions Default() { return {}; }
  static PipeOptions Large() { return {.slots = 1000, .slot_bytes = 8192}; }
};

// How one object takes part. A value type.
struct JoinOptions {
  // Shown in Status(); 47 characters at most are. Empty: the name of the program.
  std::string name = {};
  transport::WaitPolicy wait = transport::WaitPolicy::kAdaptive;
};

// One participant in PipeStatus.
struct PipeParticipant {
  uint32_t index = 0;
  uint32_t pid = 0;  // as the participant sees itself; for people only
  std::string name;
  absl::Time joined;
  bool alive = false;  // false: dead, and not recovered yet
  uint32_t slots_owned = 0;
};

// What Status() tells. Counted while others go on, so the numbers of one moment need not add up.
struct PipeStatus {
  std::string name;
  PipeOptions options;  // without the group
  absl::Time created;
  // Slots by state; their sum is options.slots.
  uint32_t empty = 0;
  uint32_t writing = 0;
  uint32_t ready = 0;
  uint32_t reading = 0;
  uint32_t in_progress = 0;
  uint32_t dead_letters = 0;
  // Since the pipe was created. Sent and received are exact when nothing is going on; the others
  // miss one for a participant that died in the very moment of counting.
  uint64_t sent = 0;
  uint64_t received = 0;  // released messages, dead letters included
  uint64_t redelivered = 0;
  uint64_t dead_lettered = 0;
  uint64_t recovered_participants = 0;
  uint64_t recovered_slots = 0;
  std::vector<PipeParticipant> participants;
};

// Takes part in one pipe. Thread-safe; one object serves all threads of a process. What it cannot
// do is said by these codes, from every function below where it applies:
//
//   RESOURCE_EXHAUSTED   no empty slot (TryHold, TrySendBytes), no place for a participant, no room
//                        on tmpfs
//   UNAVAILABLE          no message (TryFetch, TryFetchDeadLetter)
//   DEADLINE_EXCEEDED    neither within the deadline
//   CANCELLED            Cancel() was called
//   FAILED_PRECONDITION  the slot is not in the state that this needs, or this process is a fork
//                        of the one that connected; another version; a file of others
//   DATA_LOSS            the shared memory contradicts itself, or a checksum is wrong
//   PERMISSION_DENIED    the directory or the file is not this user's to use (Create, Connect)
//   ABORTED              the pipe is being removed, by somebody who has stopped in the middle of
//                        that (Create, Connect)
//   INTERNAL             the system locks no bytes of the file (Create, Connect)
//
// SlotPipeErrorOf (slot_pipe_error.h) tells apart what has the same code.
class SlotPipe {
 public:
  // Makes a pipe and joins it. ALREADY_EXISTS; INVALID_ARGUMENT for a name or a size.
  static absl::StatusOr<std::unique_ptr<SlotPipe>> Create(absl::string_view name,
                                                          const PipeOptions& options = {},
                                                          const JoinOptions& join = {});
  // Joins an existing one, recovering what dead participants left. NOT_FOUND.
  static absl::StatusOr<std::unique_ptr<SlotPipe>> Connect(absl::string_view name,
                                                           const JoinOptions& join = {});
  // Either. FAILED_PRECONDITION when the existing one was made with other options.
  static absl::StatusOr<std::unique_ptr<SlotPipe>> OpenOrCreate(absl::string_view name,
                                                                const PipeOptions& options = {},
                                                                const JoinOptions& join = {});
  // Leaves: held slots are given back, fetched messages returned. Handles die before it, and no
  // thread is inside it.
  ~SlotPipe();
  SlotPipe(const SlotPipe&) = delete;
  SlotPipe& operator=(const SlotPipe&) = delete;

  // An empty slot; waits for one.
  absl::StatusOr<WriteSlot> Hold(Deadline deadline = Deadline::Infinite());
  absl::StatusOr<WriteSlot> TryHold();
  // Holds, copies and sends. INVALID_ARGUMENT when it is larger than a slot.
  absl::Status SendBytes(absl::string_view bytes, Deadline deadline = Deadline::Infinite());
  absl::Status TrySendBytes(absl::string_view bytes);

  // The oldest message; waits for one. A message with a wrong checksum goes to the dead letters,
  // and DATA_LOSS is returned.
  absl::StatusOr<ReadSlot> Fetch(Deadline deadline = Deadline::Infinite());
  absl::StatusOr<ReadSlot> TryFetch();
  // A message that was fetched too often, or was found overwritten. Release it, or Redrive it; else
  // it stays a dead letter, whether it is returned or we die. Never waits. O(slots).
  absl::StatusOr<ReadSlot> TryFetchDeadLetter();
  // for (mi7::ReadSlot& letter : pipe.DeadLetters()): the same with each of them in turn, in the
  // order of their slots, until status() is UNAVAILABLE. To look at them, do nothing: each is a
  // dead letter again when the next one is taken, as it was before. What becomes one meanwhile, and
  // what others look at at this moment, may be passed over.
  class MessageRange;
  MessageRange DeadLetters();
  // Redrives all of them but those that are overwritten(); how many. RESOURCE_EXHAUSTED when
  // duplicates of many crashes fill the ring until somebody fetches: those before it are redriven.
  absl::StatusOr<uint32_t> RedriveDeadLetters();

  // for (mi7::ReadSlot& message : pipe.Messages()): fetches until Fetch(deadline) fails, which
  // status() then tells (DEADLINE_EXCEEDED, CANCELLED, DATA_LOSS also of one message: another range
  // goes on behind it). A message that is not released when the next one is fetched is returned.
  MessageRange Messages(Deadline deadline = Deadline::Infinite());

  // --- The index form, for schedulers that pass slots between coroutines, threads or queues.
  // WriteSlot::Detach and ReadSlot::Detach make a SlotRef, which these make a handle of again.
  // FAILED_PRECONDITION when this participant does not have the slot (any more), or a handle was
  // made of the SlotRef, or of a copy, before. DATA_LOSS when the size of a message was overwritten
  // since it was fetched: it is a dead letter then.
  absl::StatusOr<WriteSlot> Writing(SlotRef ref);
  absl::StatusOr<ReadSlot> Reading(SlotRef ref);
  // Says that a slot we have, in a handle or as this SlotRef, was handed to a worker. Seen in
  // StateOf and Status only.
  absl::Status MarkInProgress(SlotRef ref);

  // The state of a slot at this moment. INVALID_ARGUMENT for an index that is none.
  absl::StatusOr<SlotState> StateOf(uint32_t index) const;
  // O(slots + participants). In a forked child, which cannot tell, all participants count as alive.
  PipeStatus Status() const;

  // Recovers now what dead participants left; the number of those. It happens by itself where
  // participants wait or are busy. O(slots + cells) for each dead one.
  uint32_t Recover();

  // Ends all waits of this object, now and later, with CANCELLED; so that threads come home.
  // Sent and fetched messages are not touched, and the try forms go on. Async-signal-safe.
  void Cancel();
  bool cancelled() const;

  const std::string& name() const;
  uint32_t slots() const;
  uint32_t slot_bytes() const;

  // --- Without taking part.
  // The names of all pipes of this user, sorted. A name need not be that of a sound pipe: see
  // Inspect.
  static absl::StatusOr<std::vector<std::string>> List();
  // The status of a pipe, changing nothing. NOT_FOUND, PERMISSION_DENIED, DATA_LOSS, ...
  static absl::StatusOr<PipeStatus> Inspect(absl::string_view name);
  // Removes the name; the memory goes with the last participant. FAILED_PRECONDITION when somebody
  // takes part or is about to, or might in a pipe of another version, and `even_in_use` is false:
  // who joins at this moment keeps the pipe or comes to another. A damaged pipe can be removed,
  // too. NOT_FOUND.
  static absl::Status Remove(absl::string_view name, bool even_in_use = false);

  // For tests and benchmarks: slots, and words of hints, that the last Hold looked at.
  uint32_t last_hold_probes() const;
  // And cells that all fetches of this object have looked at, beyond one for each.
  uint64_t extra_fetch_probes() const;

 private:
  friend class slot_pipe_internal::Handle;
  friend class WriteSlot;
  friend class ReadSlot;
  friend class AsyncSlotPipe;
  template <typename Slot>
  friend class slot_pipe_internal::AsyncQueue;
  friend class slot_pipe_internal::PipePoll;
  struct Impl;
  explicit SlotPipe(std::unique_ptr<Impl> impl);
  // `slot` is of a dead letter.
  ReadSlot AsDeadLetter(ReadSlot slot) const;
  absl::StatusOr<ReadSlot> TryFetchDeadLetterFrom(uint32_t slot);
  static absl::StatusOr<std::unique_ptr<SlotPipe>> Join(
      std::unique_ptr<slot_pipe_internal::PipeFile> file, absl::string_view name,
      const JoinOptions& join);

  const std::unique_ptr<Impl> impl_;
};

// The range of Messages and DeadLetters. One thread.
class SlotPipe::MessageRange {
 public:
  class Iterator {
   public:
    ReadSlot& operator*() const { return range_->message_; }
    ReadSlot* operator->() const { return &range_->message_; }
    Iterator& operator++() {
      range_->Next();
      return *this;
    }
    friend bool operator==(const Iterator& a, const Iterator& b) { return a.AtEnd() == b.AtEnd(); }

   private:
    friend class MessageRange;
    explicit Iterator(MessageRange* range) : range_(range) {}
    bool AtEnd() const { return range_ == nullptr || !range_->status_.ok(); }
    MessageRange* range_;
  };
  Iterator begin() {
    Next();
    return Iterator(this);
  }
  Iterator end() { return Iterator(nullptr); }
  // Why the range ended.
  const absl::Status& status() const { return status_; }

 private:
  friend class SlotPipe;
  enum class Of { kMessages, kDeadLetters };
  MessageRange(SlotPipe* pipe, Deadline deadline, Of of)
      : pipe_(pipe), deadline_(deadline), of_(of) {}
  void Next();

  SlotPipe* pipe_;
  Deadline deadline_;
  Of of_;
  uint32_t from_ = 0;  // the slot of the next dead letter, or before it
  ReadSlot message_;
  absl::Status status_;
};

}  // namespace mi7
