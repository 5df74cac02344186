#include "transport/slot_pipe/interleaving/world.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/slot_pipe/interleaving/stepped_futex.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr size_t kBytes = 16 << 10;
alignas(4096) std::byte memory[kBytes];

Layout MakeWorldLayout(uint32_t slots) {
  const auto layout = MakeLayout({.slots = slots, .slot_bytes = 8, .participants = 8});
  MI7_CHECK(layout.ok() && layout->file_bytes <= kBytes, "a world is small");
  return *layout;
}

uint32_t& Payload(const Region& region, uint32_t slot) {
  return *reinterpret_cast<uint32_t*>(region.payload(slot));
}

}  // namespace

World::World(uint32_t slots, uint64_t position)
    : region_((std::memset(memory, 0, kBytes), memory), MakeWorldLayout(slots)) {
  ForgetSleepers();
  FreeHints(region_).SetAll();
  const auto order = std::memory_order_relaxed;
  region_.words().head.store(position, order);
  region_.words().tail.store(position, order);
  for (uint64_t cell = 0; cell < position; ++cell) {
    region_.cell(cell).store(CellWord::Empty(region_.lap(cell) + 1).bits(), order);
  }
}

std::string World::Audit() {
  Person last(this, 7);
  Claim claim;
  for (uint32_t i = 0; last.protocol().Fetch(claim) == Outcome::kDone; ++i) {
    if (i == 2 * kMessages) return "messages without end";
    const uint32_t number = Payload(region_, claim.slot);
    if (number >= kMessages || !messages_[number].sending) return "a ghost came";
    if (messages_[number].fetched && claim.word.attempts() < 2) return "it came again, unmarked";
    last.Release(claim);
  }
  for (uint32_t number = 0; number < kMessages; ++number) {
    const Message& message = messages_[number];
    const uint32_t times = message.released;
    if (message.unmarked > 1) return absl::StrCat("message ", number, " came twice, unmarked");
    if (times > 1) return absl::StrCat("message ", number, " was released ", times, " times");
    // Who died in Release may have released it.
    if (message.sent && times == 0 && !message.releasing) {
      return absl::StrCat("message ", number, " is lost");
    }
  }
  for (uint32_t slot = 0; slot < region_.geometry().slots; ++slot) {
    const SlotWord word(region_.slot(slot).word.load(std::memory_order_relaxed));
    if (word.phase() != SlotPhase::kEmpty) return absl::StrCat("slot ", slot, " is leaked");
    const uint64_t bits = region_.hint(slot / 64).load(std::memory_order_relaxed);
    if ((bits >> (slot % 64) & 1) == 0) return absl::StrCat("slot ", slot, " is hidden");
    const uint64_t summary = region_.hint_summary(0).load(std::memory_order_relaxed);
    if ((summary >> (slot / 64) & 1) == 0) return "a word of hints is hidden";
  }
  return "";
}

Claim Person::Hold() {
  Claim claim;
  const auto attempt = [&] { return protocol_.Hold(claim) == Outcome::kDone; };
  if (attempt()) return claim;
  empty_.Await(
      attempt, [&](uint32_t ticket) { return empty_.Sleep(ticket, 1), true; },
      [&] { return protocol_.MayHold(); });
  return claim;
}

void Person::Send(const Claim& claim, uint32_t message) {
  Payload(world_->region(), claim.slot) = message;
  world_->message(message).sending = true;
  MI7_CHECK(protocol_.Send(claim) == Outcome::kDone, "a held slot can be sent");
  world_->message(message).sent = true;
  ready_.Notify();
}

void Person::GiveBack(const Claim& claim) {
  MI7_CHECK(protocol_.GiveBack(claim) == Outcome::kDone, "a held slot can be given back");
  empty_.Notify();
}

void Person::Note(const Claim& claim) {
  const uint32_t number = Payload(world_->region(), claim.slot);
  MI7_CHECK(number < World::kMessages, "a message is a number");
  Message& message = world_->message(number);
  message.fetched = true;
  if (claim.word.attempts() == 1) ++message.unmarked;
}

Claim Person::Fetch() {
  Claim claim;
  const auto attempt = [&] { return protocol_.Fetch(claim) == Outcome::kDone; };
  if (!attempt()) {
    ready_.Await(
        attempt, [&](uint32_t ticket) { return ready_.Sleep(ticket, 1), true; },
        [&] { return protocol_.MayFetch(); });
  }
  Note(claim);
  return claim;
}

bool Person::TryFetch(Claim& claim) {
  if (protocol_.Fetch(claim) != Outcome::kDone) return false;
  Note(claim);
  return true;
}

void Person::Release(const Claim& claim) {
  const uint32_t number = Payload(world_->region(), claim.slot);
  Message& message = world_->message(number);
  message.releasing = true;
  MI7_CHECK(protocol_.Release(claim) == Outcome::kDone, "a fetched slot can be released");
  ++message.released;
  empty_.Notify();
}

void Person::Return(const Claim& claim) {
  MI7_CHECK(protocol_.Return(claim, claim.word.attempts()) == Outcome::kDone,
            "a fetched slot can be returned");
  ready_.Notify();
}

void Person::Recover(uint16_t dead) {
  MI7_CHECK(protocol_.Sweep(dead).complete, "there is room for what the dead had");
  ready_.NotifyAll();
  empty_.NotifyAll();
}

}  // namespace mi7::slot_pipe_internal
