#pragma once

// Ledger: what became of every message of a test, written by processes that may die at any moment,
// in memory that outlives them; and Audit, which holds a pipe to it.

#include <atomic>
#include <cstdint>
#include <string>

#include "transport/slot_pipe/slot_pipe.h"

namespace mi7::slot_pipe_internal {

// How far a message has come, as its process could tell. Each step is written before the operation
// begins and after it has returned, so a death is between two of them.
enum class Stage : uint8_t {
  kNone,
  kSending,    // Send may have happened
  kSent,       // Send returned OK
  kFetched,    // Fetch returned it
  kReleasing,  // Release may have happened
  kReleased,   // Release returned OK
  // Of what is no message to fetch.
  kDeadLetter,  // nobody has it
  kTaken,       // TryFetchDeadLetter returned it
  kRedriving,   // Redrive, after which it is kSent, may have happened
};

// Message i is the number i as 4 bytes, with kSpoilt when it was overwritten. Lives in memory that
// processes share.
inline constexpr uint32_t kSpoilt = 1u << 31;
struct Ledger {
  static constexpr uint32_t kMessages = 64;
  std::atomic<Stage> stage[kMessages];
  // Whether a Fetch has begun and its message is not noted yet.
  std::atomic<bool> fetching;

  void Set(uint32_t message, Stage to) { stage[message].store(to, std::memory_order_seq_cst); }
};

// The operations, with their entries. Abort where a step fails that must not.
void SendMessage(SlotPipe& pipe, Ledger& ledger, uint32_t message);
ReadSlot FetchMessage(SlotPipe& pipe, Ledger& ledger);
void ReleaseMessage(ReadSlot slot, Ledger& ledger);
// Sends a message that is a dead letter at once, because it is overwritten.
void SendSpoilt(SlotPipe& pipe, Ledger& ledger, uint32_t message);
ReadSlot FetchDeadLetter(SlotPipe& pipe, Ledger& ledger);
void ReturnDeadLetter(ReadSlot slot, Ledger& ledger);
// As it was before it was overwritten.
void RedriveDeadLetter(ReadSlot slot, Ledger& ledger);
// Makes it what it was before it was overwritten, and leaves it a dead letter.
void MendDeadLetter(ReadSlot slot, Ledger& ledger);
// Takes each dead letter and returns it; how many.
uint32_t LookAtDeadLetters(SlotPipe& pipe, Ledger& ledger);
// All that are not overwritten, of which the numbers are those below `messages`.
void RedriveDeadLetters(SlotPipe& pipe, Ledger& ledger, uint32_t messages);

// Fetches everything that is in `pipe` and compares it with the ledger, holds every slot, and sends
// messages once around the ring. "" when all is well.
//
// kDead: nobody else is alive. Each message that was sent and not released came out once, marked as
// redelivered when somebody had fetched it; no other message came; no slot is lost. Dead letters
// are dead letters. kStopped: whoever wrote the ledger still has its place, but does not run.
// Nothing that it has finished waits for it, and it has what it had.
enum class Other { kDead, kStopped };
std::string Audit(SlotPipe& pipe, const Ledger& ledger, Other other);

}  // namespace mi7::slot_pipe_internal
