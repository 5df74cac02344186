#include "transport/slot_pipe/crash/ledger.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace mi7::slot_pipe_internal {

namespace {

// The number of what was fetched, spoilt or not.
uint32_t NumberOf(const ReadSlot& slot) {
  uint32_t message = Ledger::kMessages;
  if (slot.size() == sizeof(message)) std::memcpy(&message, slot.data(), sizeof(message));
  return message & ~kSpoilt;
}

}  // namespace

void SendMessage(SlotPipe& pipe, Ledger& ledger, uint32_t message) {
  auto slot = pipe.TryHold();
  MI7_CHECK(slot.ok(), "the scenario has an empty slot here");
  std::memcpy(slot->data(), &message, sizeof(message));
  ledger.Set(message, Stage::kSending);
  MI7_CHECK(slot->Send(sizeof(message)).ok(), "a held slot can be sent");
  ledger.Set(message, Stage::kSent);
}

ReadSlot FetchMessage(SlotPipe& pipe, Ledger& ledger) {
  ledger.fetching.store(true);
  auto slot = pipe.TryFetch();
  MI7_CHECK(slot.ok(), "the scenario has a message here");
  const uint32_t message = NumberOf(*slot);
  MI7_CHECK(message < Ledger::kMessages, "a message is a number");
  ledger.Set(message, Stage::kFetched);
  ledger.fetching.store(false);
  return *std::move(slot);
}

void ReleaseMessage(ReadSlot slot, Ledger& ledger) {
  const uint32_t message = NumberOf(slot);
  ledger.Set(message, Stage::kReleasing);
  MI7_CHECK(slot.Release().ok(), "a fetched slot can be released");
  ledger.Set(message, Stage::kReleased);
}

void SendSpoilt(SlotPipe& pipe, Ledger& ledger, uint32_t message) {
  auto slot = pipe.TryHold();
  MI7_CHECK(slot.ok(), "the scenario has an empty slot here");
  std::byte* const data = slot->data();
  std::memcpy(data, &message, sizeof(message));
  MI7_CHECK(slot->Send(sizeof(message)).ok(), "a held slot can be sent");
  message |= kSpoilt;
  std::memcpy(data, &message, sizeof(message));
  MI7_CHECK(absl::IsDataLoss(pipe.TryFetch().status()), "its checksum finds it");
  ledger.Set(message & ~kSpoilt, Stage::kDeadLetter);
}

ReadSlot FetchDeadLetter(SlotPipe& pipe, Ledger& ledger) {
  ledger.fetching.store(true);
  auto slot = pipe.TryFetchDeadLetter();
  MI7_CHECK(slot.ok(), "the scenario has a dead letter here");
  ledger.Set(NumberOf(*slot), Stage::kTaken);
  ledger.fetching.store(false);
  return *std::move(slot);
}

void ReturnDeadLetter(ReadSlot slot, Ledger& ledger) {
  const uint32_t message = NumberOf(slot);
  MI7_CHECK(slot.Return().ok(), "a dead letter can be returned");
  ledger.Set(message, Stage::kDeadLetter);
}

namespace {

uint32_t Mend(ReadSlot& slot) {
  const uint32_t message = NumberOf(slot);
  std::memcpy(const_cast<std::byte*>(slot.data()), &message, sizeof(message));
  return message;
}

}  // namespace

void RedriveDeadLetter(ReadSlot slot, Ledger& ledger) {
  const uint32_t message = Mend(slot);
  ledger.Set(message, Stage::kRedriving);
  MI7_CHECK(slot.Redrive().ok(), "a dead letter can be redriven");
  ledger.Set(message, Stage::kSent);
}

void MendDeadLetter(ReadSlot slot, Ledger& ledger) {
  Mend(slot);
  ReturnDeadLetter(std::move(slot), ledger);
}

uint32_t LookAtDeadLetters(SlotPipe& pipe, Ledger& ledger) {
  uint32_t seen = 0;
  // It has one of them at a time, of which nothing is noted.
  ledger.fetching.store(true);
  for (const ReadSlot& letter : pipe.DeadLetters()) {
    MI7_CHECK(NumberOf(letter) < Ledger::kMessages, "a message is a number");
    ++seen;
  }
  ledger.fetching.store(false);
  return seen;
}

void RedriveDeadLetters(SlotPipe& pipe, Ledger& ledger, uint32_t messages) {
  // It looks at those that are overwritten, too, one at a time.
  ledger.fetching.store(true);
  for (uint32_t message = 0; message < messages; ++message) {
    ledger.Set(message, Stage::kRedriving);
  }
  const auto redriven = pipe.RedriveDeadLetters();
  MI7_CHECK(redriven.ok() && *redriven == messages, "what is not overwritten is redriven");
  for (uint32_t message = 0; message < messages; ++message) ledger.Set(message, Stage::kSent);
  ledger.fetching.store(false);
}

namespace {

// Takes all messages, while every empty slot is held: for none of them must a stale cell stand.
std::string Drain(SlotPipe& pipe, const Ledger& ledger, uint32_t* came) {
  std::vector<WriteSlot> held;
  for (auto slot = pipe.TryHold(); slot.ok(); slot = pipe.TryHold()) {
    held.push_back(*std::move(slot));
  }
  for (uint32_t round = 0;; ++round) {
    if (round > 2 * Ledger::kMessages) return "messages without end";
    auto slot = pipe.TryFetch();
    if (absl::IsUnavailable(slot.status())) return "";
    if (!slot.ok()) return slot.status().ToString();
    for (const WriteSlot& mine : held) {
      if (mine.index() == slot->index()) return "a slot came that is being written";
    }
    const uint32_t message = NumberOf(*slot);
    if (message >= Ledger::kMessages) return "a ghost: what came is no message";
    ++came[message];
    const Stage stage = ledger.stage[message].load();
    if (stage == Stage::kNone || stage == Stage::kReleased || stage == Stage::kDeadLetter ||
        stage == Stage::kTaken) {
      return absl::StrCat("message ", message, " came, at stage ", static_cast<int>(stage));
    }
    const bool seen = stage == Stage::kFetched || stage == Stage::kReleasing;
    if (seen && !slot->redelivered()) {
      return absl::StrCat("message ", message, " came again without a mark");
    }
    if (!slot->Release().ok()) return "a fetched message cannot be released";
    auto hold = pipe.TryHold();
    if (!hold.ok()) return "a slot that was just released cannot be held";
    held.push_back(*std::move(hold));
  }
}

// Takes all dead letters.
std::string DrainDeadLetters(SlotPipe& pipe, const Ledger& ledger, uint32_t* came) {
  for (;;) {
    auto slot = pipe.TryFetchDeadLetter();
    if (absl::IsUnavailable(slot.status())) return "";
    if (!slot.ok()) return slot.status().ToString();
    const uint32_t message = NumberOf(*slot);
    if (message >= Ledger::kMessages) return "a ghost among the dead letters";
    ++came[message];
    const Stage stage = ledger.stage[message].load();
    if (stage < Stage::kDeadLetter && stage != Stage::kReleasing) {
      return absl::StrCat("message ", message, " is a dead letter, at stage ",
                          static_cast<int>(stage));
    }
    if (!slot->Release().ok()) return "a dead letter cannot be released";
  }
}

// Every empty slot can be held.
std::string HoldAll(SlotPipe& pipe) {
  const uint32_t empty = pipe.Status().empty;
  std::vector<WriteSlot> held;
  for (uint32_t i = 0; i < empty; ++i) {
    auto slot = pipe.TryHold();
    if (!slot.ok()) return absl::StrCat(i, " of ", empty, " empty slots can be held");
    held.push_back(*std::move(slot));
  }
  return "";
}

// Once around the ring, and a little: each cell takes a message and gives it back.
std::string GoRound(SlotPipe& pipe) {
  if (pipe.Status().empty == 0) return "";
  constexpr uint32_t kCells = 256;  // the least that a ring has
  for (uint32_t i = 0; i < kCells + 3; ++i) {
    if (absl::Status sent = pipe.SendBytes("round"); !sent.ok()) return sent.ToString();
    auto slot = pipe.TryFetch();
    if (!slot.ok() || slot->text() != "round") return absl::StrCat("lost on round ", i);
    if (!slot->Release().ok()) return "a fetched message cannot be released";
  }
  return "";
}

}  // namespace

std::string Audit(SlotPipe& pipe, const Ledger& ledger, Other other) {
  uint32_t came[Ledger::kMessages] = {};
  if (std::string wrong = Drain(pipe, ledger, came); !wrong.empty()) return wrong;
  if (std::string wrong = DrainDeadLetters(pipe, ledger, came); !wrong.empty()) return wrong;
  // What was fetched a moment ago, unnoted, is still the other one's.
  uint32_t may_miss = other == Other::kStopped && ledger.fetching.load() ? 1 : 0;
  for (uint32_t message = 0; message < Ledger::kMessages; ++message) {
    const Stage stage = ledger.stage[message].load();
    const bool had =
        stage == Stage::kFetched || stage == Stage::kTaken || stage == Stage::kRedriving;
    const bool must =
        stage == Stage::kSent || stage == Stage::kDeadLetter || (had && other == Other::kDead);
    if (came[message] == 0 && must && may_miss > 0) {
      --may_miss;
    } else if (came[message] > 1 || (must && came[message] != 1)) {
      return absl::StrCat("message ", message, " came ", came[message], " times, at stage ",
                          static_cast<int>(stage));
    }
  }
  if (other == Other::kDead) {
    const PipeStatus status = pipe.Status();
    if (status.empty != pipe.slots()) {
      return absl::StrCat("slots leaked: ", status.empty, " of ", pipe.slots(), " are empty");
    }
    if (status.participants.size() != 1) return "a dead participant keeps its place";
  }
  if (std::string wrong = HoldAll(pipe); !wrong.empty()) return wrong;
  return GoRound(pipe);
}

}  // namespace mi7::slot_pipe_internal
