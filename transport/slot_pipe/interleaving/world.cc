#include "transport/slot_pipe/interleaving/world.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/slot_pipe/interleaving/explorer.h"
#include "transport/slot_pipe/interleaving/stepped_futex.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr size_t kBytes = 16 << 10;
alignas(4096) std::byte memory[kBytes];

Layout MakeWorldLayout(uint32_t slots, uint32_t cells) {
  auto layout = MakeLayout({.slots = slots, .slot_bytes = 8, .participants = 8});
  MI7_CHECK(layout.ok() && layout->file_bytes <= kBytes, "a world is small");
  MI7_CHECK(std::has_single_bit(cells) && cells <= layout->cells, "a ring may be shorter");
  layout->cells = cells;
  layout->cells_log2 = static_cast<uint32_t>(std::countr_zero(cells));
  return *layout;
}

// An empty slot that has carried so many messages more.
SlotWord After(SlotWord empty, uint64_t cycles) {
  constexpr uint64_t kGenerations = SlotWord(~uint64_t{0}).generation();
  constexpr uint64_t kCycle = SlotWord().Consumed().generation();
  const uint64_t generation = (empty.generation() + cycles * kCycle) & kGenerations;
  return SlotWord((empty.bits() & ~kGenerations) | generation);
}

// A payload is no atomic word: what it is when it is read depends on the words around it.
SteppedAtomic<uint32_t>& Payload(const Region& region, uint32_t slot) {
  return *reinterpret_cast<SteppedAtomic<uint32_t>*>(region.payload(slot));
}

}  // namespace

World::World(uint32_t slots, uint64_t position, uint32_t cells)
    : region_((std::memset(memory, 0, kBytes), memory), MakeWorldLayout(slots, cells)) {
  ForgetSleepers();
  FreeHints(region_).SetAll();
  EmptyRing(position);
}

void World::EmptyRing(uint64_t position) {
  const auto order = std::memory_order_relaxed;
  region_.words().head.store(position, order);
  region_.words().tail.store(position, order);
  for (uint64_t next = position; next < position + region_.layout().cells; ++next) {
    region_.cell(next).store(CellWord::Empty(region_.lap(next)).bits(), order);
  }
}

void World::GoRound(uint64_t position, uint64_t cycles) {
  AsOneStep([&] {
    const auto order = std::memory_order_relaxed;
    for (uint64_t cell = 0; cell < region_.layout().cells; ++cell) {
      if (CellWord(region_.cell(cell).load(order)).full()) return;
    }
    EmptyRing(position);
    for (uint32_t slot = 0; slot < region_.geometry().slots; ++slot) {
      Atomic<uint64_t>& word = region_.slot(slot).word;
      const SlotWord before(word.load(order));
      if (before.phase() == SlotPhase::kEmpty) word.store(After(before, cycles).bits(), order);
    }
  });
}

std::string World::Audit() {
  Person last(this, 7);
  Claim claim;
  for (uint32_t i = 0; last.protocol().Fetch(claim) == Outcome::kDone; ++i) {
    if (i == 2 * kMessages) return "messages without end";
    const uint32_t number = Payload(region_, claim.slot).plain_load();
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

namespace {

// Whether it is done; nothing in a world is ever damaged.
bool Got(Outcome outcome) {
  MI7_CHECK(outcome == Outcome::kDone || outcome == Outcome::kNothing, "no sound memory is damage");
  return outcome == Outcome::kDone;
}

}  // namespace

Claim Person::Hold() {
  Claim claim;
  const auto attempt = [&] { return Got(protocol_.Hold(claim)); };
  if (attempt()) return claim;
  empty_.Await(
      attempt, [&](uint32_t ticket) { return empty_.Sleep(ticket, 1), true; },
      [&] { return protocol_.MayHold(); });
  return claim;
}

void Person::Send(const Claim& claim, uint32_t message) {
  Payload(world_->region(), claim.slot).plain_store(message);
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
  const uint32_t number = Payload(world_->region(), claim.slot).plain_load();
  MI7_CHECK(number < World::kMessages, "a message is a number");
  Message& message = world_->message(number);
  message.fetched = true;
  if (claim.word.attempts() == 1) ++message.unmarked;
}

Claim Person::Fetch() {
  Claim claim;
  const auto attempt = [&] { return Got(protocol_.Fetch(claim)); };
  if (!attempt()) {
    ready_.Await(
        attempt, [&](uint32_t ticket) { return ready_.Sleep(ticket, 1), true; },
        [&] { return protocol_.MayFetch(); });
  }
  Note(claim);
  return claim;
}

bool Person::TryFetch(Claim& claim) {
  if (!Got(protocol_.Fetch(claim))) return false;
  Note(claim);
  return true;
}

bool Person::FetchUnlessCancelled(Claim& claim) {
  const bool got = ready_.Await([&] { return Got(protocol_.Fetch(claim)); },
                                [&](uint32_t ticket) {
                                  if (world_->cancelled().load(std::memory_order_acquire) != 0)
                                    return false;
                                  ready_.Sleep(ticket, 1);
                                  return true;
                                },
                                [&] { return protocol_.MayFetch(); });
  if (got) Note(claim);
  return got;
}

void Person::Cancel() {
  world_->cancelled().store(1, std::memory_order_seq_cst);
  ready_.NotifyAll();
  empty_.NotifyAll();
}

void Person::Release(const Claim& claim) {
  const uint32_t number = Payload(world_->region(), claim.slot).plain_load();
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
  KnowWhatTheKilledKnew();  // through the lock of who is dead
  MI7_CHECK(protocol_.Sweep(dead).complete, "there is room for what the dead had");
  ready_.NotifyAll();
  empty_.NotifyAll();
}

}  // namespace mi7::slot_pipe_internal
