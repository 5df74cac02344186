// A pipe whose memory was scribbled upon: every operation returns soon, with a status; nothing
// crashes, and no slot or byte outside the pipe is touched (AddressSanitizer looks).

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/layout.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {
namespace {

constexpr PipeOptions kOptions = {
    .slots = 70, .slot_bytes = 64, .participants = 4, .attempts_max = 3};

class DamageTest : public testing::Test {
 protected:
  // Maps all of the file, for scribbling.
  void Map(absl::string_view name) {
    const auto layout = slot_pipe_internal::MakeLayout({.slots = kOptions.slots,
                                                        .slot_bytes = kOptions.slot_bytes,
                                                        .participants = kOptions.participants,
                                                        .attempts_max = kOptions.attempts_max});
    layout_ = *layout;
    const int fd = ::open(directory_.File(name).c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    memory_ = static_cast<char*>(
        ::mmap(nullptr, layout_.file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    ::close(fd);
    ASSERT_NE(memory_, MAP_FAILED);
  }
  void Unmap() { ::munmap(memory_, layout_.file_bytes); }

  // Overwrites an aligned word below `end`, not in the header, which is not looked at again.
  void Scribble(uint64_t end) {
    const uint64_t at = sizeof(slot_pipe_internal::PipeHeader) / 8 +
                        random_() % (end / 8 - sizeof(slot_pipe_internal::PipeHeader) / 8);
    uint64_t value = random_();
    switch (random_() % 4) {
      case 0:
        value = 0;
        break;
      case 1:
        std::memcpy(&value, memory_ + 8 * at, 8);
        value ^= uint64_t{1} << (random_() % 64);
        break;
      case 2:
        value = ~uint64_t{0};
        break;
      default:
        break;
    }
    std::memcpy(memory_ + 8 * at, &value, 8);
  }

  void Work(SlotPipe& pipe) {
    for (int i = 0; i < 4; ++i) {
      auto slot = pipe.TryHold();
      if (slot.ok()) {
        EXPECT_LT(slot->index(), kOptions.slots);
        slot->SendBytes("data").IgnoreError();
      }
      auto message = pipe.TryFetch();
      if (message.ok()) {
        EXPECT_LT(message->index(), kOptions.slots);
        EXPECT_LE(message->size(), kOptions.slot_bytes);
        if (i % 2 == 0) message->Release().IgnoreError();
      }
      if (absl::IsDataLoss(message.status())) ++data_loss_;
    }
    pipe.Fetch(Deadline::After(absl::Microseconds(100))).IgnoreError();
    pipe.Hold(Deadline::After(absl::Microseconds(100))).IgnoreError();
    pipe.TryFetchDeadLetter().IgnoreError();
    pipe.RedriveDeadLetters().IgnoreError();
    const PipeStatus status = pipe.Status();
    EXPECT_EQ(status.empty + status.writing + status.ready + status.reading + status.in_progress +
                  status.dead_letters,
              kOptions.slots);
  }

  slot_pipe_internal::TestDirectory directory_;
  slot_pipe_internal::Layout layout_;
  char* memory_ = nullptr;
  std::mt19937_64 random_;
  int data_loss_ = 0;
};

TEST_F(DamageTest, ScribblingNeverCrashesNorHangs) {
  const char* seed_text = ::getenv("MI7_SEED");
  const uint64_t seed =
      seed_text == nullptr ? std::random_device()() : static_cast<uint64_t>(::atoll(seed_text));
  std::cout << "seed " << seed << " (MI7_SEED)\n";
  random_.seed(seed);
  for (int round = 0; round < 60; ++round) {
    const std::string name = absl::StrCat("damage", round);
    auto pipe = SlotPipe::Create(name, kOptions);
    ASSERT_TRUE(pipe.ok()) << pipe.status();
    Map(name);
    for (int i = 0; i < 10; ++i) ASSERT_TRUE((*pipe)->SendBytes("before").ok());
    (*pipe)->TryFetch()->Detach();
    (*pipe)->TryHold()->Detach();
    // The words that all share, the ring, or anything; little or much of it.
    const uint64_t ends[] = {slot_pipe_internal::kHintsOffset, layout_.slots_offset,
                             layout_.file_bytes};
    const uint64_t end = ends[random_() % 3];
    const uint64_t many = uint64_t{1} << (random_() % 10);
    for (uint64_t i = 0; i < many; ++i) Scribble(end);
    Work(**pipe);
    {
      // Joining, recovering and leaving.
      auto other = SlotPipe::Connect(name);
      if (other.ok()) Work(**other);
      SlotPipe::Inspect(name).IgnoreError();
    }
    pipe->reset();
    Unmap();
    ASSERT_TRUE(SlotPipe::Remove(name, true).ok());
  }
  EXPECT_GT(data_loss_, 0);
}

TEST_F(DamageTest, ACellOfNoSlotIsDataLoss) {
  auto pipe = SlotPipe::Create("cell", kOptions).value();
  Map("cell");
  const uint64_t cell = slot_pipe_internal::CellWord::Full(kOptions.slots, 0, 0).bits();
  std::memcpy(memory_ + layout_.cells_offset, &cell, 8);
  EXPECT_TRUE(slot_pipe_internal::Is(pipe->TryFetch().status(), absl::StatusCode::kDataLoss,
                                     "contradicts itself"));
  Unmap();
}

TEST_F(DamageTest, AHeadAheadOfItsCellIsDataLoss) {
  auto pipe = SlotPipe::Create("head", kOptions).value();
  Map("head");
  const uint64_t head = 5 * layout_.cells;
  std::memcpy(memory_ + slot_pipe_internal::kSharedWordsOffset, &head, 8);
  EXPECT_TRUE(slot_pipe_internal::Is(pipe->TryFetch().status(), absl::StatusCode::kDataLoss,
                                     "remove it and create it anew"));
  Unmap();
}

TEST_F(DamageTest, AMessageLongerThanItsSlotIsADeadLetter) {
  auto pipe = SlotPipe::Create("size", kOptions).value();
  Map("size");
  ASSERT_TRUE(pipe->SendBytes("short").ok());
  const uint32_t size = 1'000'000;
  std::memcpy(memory_ + layout_.slots_offset + offsetof(slot_pipe_internal::SlotHeader, size),
              &size, 4);
  EXPECT_TRUE(slot_pipe_internal::Is(pipe->TryFetch().status(), absl::StatusCode::kDataLoss,
                                     "slot 0 was overwritten"));
  EXPECT_EQ(pipe->TryFetchDeadLetter()->size(), kOptions.slot_bytes);
  Unmap();
}

// Also of values that are possible.
TEST_F(DamageTest, AChecksumFindsAnotherSizeOrKind) {
  using slot_pipe_internal::SlotHeader;
  PipeOptions options = kOptions;
  options.checksum = true;
  auto pipe = SlotPipe::Create("sum", options).value();
  Map("sum");
  // Its last byte is as the one behind it, so that the payload does not tell how long it is.
  const absl::string_view text("text\0", 5);
  const std::tuple<const char*, size_t, uint32_t> kStrays[] = {
      {"size", offsetof(SlotHeader, size), 4},
      {"kind", offsetof(SlotHeader, kind), static_cast<uint32_t>(PayloadKind::kCapnp)}};
  for (const auto& [name, offset, value] : kStrays) {
    SCOPED_TRACE(name);
    auto slot = pipe->TryHold();
    char* const header = memory_ + layout_.slots_offset + slot->index() * layout_.slot_stride;
    ASSERT_TRUE(slot->SendBytes(text).ok());
    std::memcpy(header + offset, &value, sizeof(value));
    EXPECT_TRUE(slot_pipe_internal::Is(pipe->TryFetch().status(), absl::StatusCode::kDataLoss,
                                       "was overwritten"));
    EXPECT_TRUE(pipe->TryFetchDeadLetter()->overwritten());
  }
  Unmap();
}

// Bits for words of hints that there are not: the one slot that is empty is found nevertheless,
// wherever a participant begins to look.
TEST_F(DamageTest, ASlotIsFoundThoughTheSummaryOfTheHintsHasBitsOfNothing) {
  for (uint32_t place = 1; place < kOptions.participants; ++place) {
    SCOPED_TRACE(place);
    const std::string name = absl::StrCat("stray", place);
    std::vector<std::unique_ptr<SlotPipe>> all;
    all.push_back(SlotPipe::Create(name, kOptions).value());
    while (all.size() <= place) all.push_back(SlotPipe::Connect(name).value());
    // The first has a slot in the middle, and the one that looks all others.
    std::vector<WriteSlot> others;
    for (uint32_t i = 0; i < kOptions.slots / 2; ++i) others.push_back(*all[0]->TryHold());
    WriteSlot middle = std::move(others.back());
    others.clear();
    for (uint32_t i = 1; i < kOptions.slots; ++i) {
      auto slot = all.back()->Hold(Deadline::After(absl::Seconds(30)));
      ASSERT_TRUE(slot.ok()) << slot.status();
      others.push_back(*std::move(slot));
    }
    Map(name);
    std::memset(memory_ + slot_pipe_internal::kSharedWordsOffset +
                    offsetof(slot_pipe_internal::SharedWords, hint_summary),
                0xFF, sizeof(slot_pipe_internal::SharedWords::hint_summary));
    Unmap();
    ASSERT_TRUE(middle.GiveBack().ok());
    EXPECT_TRUE(all.back()->TryHold().ok());
  }
}

// Not damage, but a pipe that has carried 2^38 messages through one slot.
TEST_F(DamageTest, CountersGoOnWhenTheCycleOfASlotComesRound) {
  constexpr uint64_t kRound = uint64_t{1} << 38;
  auto pipe = SlotPipe::Create("round", {.slots = 1, .slot_bytes = 64}).value();
  const auto layout = slot_pipe_internal::MakeLayout(
      {.slots = 1, .slot_bytes = 64, .participants = 64, .attempts_max = 5});
  const int fd = ::open(directory_.File("round").c_str(), O_WRONLY | O_CLOEXEC);
  const uint64_t word = (kRound - 1) << 6;
  ASSERT_EQ(::pwrite(fd, &word, sizeof(word), static_cast<off_t>(layout->slots_offset)),
            static_cast<ssize_t>(sizeof(word)));
  ::close(fd);
  EXPECT_EQ(pipe->Status().received, kRound - 1);
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(pipe->SendBytes("x").ok());
    EXPECT_EQ(pipe->Status().sent, kRound + i);
    auto message = pipe->TryFetch();
    ASSERT_TRUE(message.ok()) << message.status();
    ASSERT_TRUE(message->Release().ok());
    EXPECT_EQ(pipe->Status().received, kRound + i);
  }
}

// The index form takes the size from the shared memory, too.
TEST_F(DamageTest, AFetchedMessageThatGrewIsADeadLetter) {
  auto pipe = SlotPipe::Create("grown", kOptions).value();
  Map("grown");
  ASSERT_TRUE(pipe->SendBytes("short").ok());
  const SlotRef fetched = pipe->TryFetch()->Detach();
  const uint32_t size = kOptions.slot_bytes + 1;
  std::memcpy(memory_ + layout_.slots_offset + fetched.index * layout_.slot_stride +
                  offsetof(slot_pipe_internal::SlotHeader, size),
              &size, 4);
  EXPECT_TRUE(slot_pipe_internal::Is(pipe->Reading(fetched).status(), absl::StatusCode::kDataLoss,
                                     "was overwritten; it is among the dead letters"));
  EXPECT_EQ(pipe->Status().dead_letters, 1u);
  EXPECT_EQ(pipe->TryFetchDeadLetter()->size(), kOptions.slot_bytes);
  Unmap();
}

// However few its attempts: who fetches messages hears of it once.
TEST_F(DamageTest, ADeadLetterStaysOneUntilItIsReleasedOrRedriven) {
  for (const uint32_t attempts_max : {0u, 5u}) {
    SCOPED_TRACE(attempts_max);
    auto pipe = SlotPipe::Create(
                    absl::StrCat("stays", attempts_max),
                    {.slots = 4, .slot_bytes = 64, .attempts_max = attempts_max, .checksum = true})
                    .value();
    auto slot = pipe->Hold();
    std::byte* const stray = slot->data();
    ASSERT_TRUE(slot->SendBytes("precious").ok());
    stray[3] ^= std::byte{1};
    EXPECT_TRUE(slot_pipe_internal::Is(pipe->TryFetch().status(), absl::StatusCode::kDataLoss,
                                       "overwritten"));
    for (int i = 0; i < 3; ++i) {
      auto dead = pipe->TryFetchDeadLetter();
      ASSERT_TRUE(dead.ok()) << dead.status();
      EXPECT_EQ(pipe->Status().reading, 1u);
      if (i == 0) continue;  // dropped
      if (i == 1) {
        EXPECT_TRUE(dead->ReturnUnseen().ok());
        continue;
      }
      // The index form knows it, too.
      const SlotRef ref = dead->Detach();
      EXPECT_TRUE(pipe->MarkInProgress(ref).ok());
      EXPECT_EQ(pipe->Status().in_progress, 1u);
      EXPECT_TRUE(pipe->Reading(ref)->Return().ok());
    }
    EXPECT_TRUE(slot_pipe_internal::Is(pipe->TryFetch().status(), absl::StatusCode::kUnavailable,
                                       "no message"));
    const PipeStatus status = pipe->Status();
    EXPECT_EQ(status.dead_letters, 1u);
    EXPECT_EQ(status.dead_lettered, 1u);
    EXPECT_EQ(status.sent, 1u);
    stray[3] ^= std::byte{1};
    ASSERT_TRUE(pipe->TryFetchDeadLetter()->Redrive().ok());
    auto message = pipe->TryFetch();
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->text(), "precious");
    EXPECT_EQ(message->attempt(), 1u);
    ASSERT_TRUE(message->Release().ok());
    EXPECT_EQ(pipe->Status().empty, 4u);
  }
}

// Crashes leave cells of messages that have cells already. Where those fill the ring, nobody sends
// nor returns, keeps what it has, and goes on after a fetch has made room.
TEST_F(DamageTest, AFullRingOfDuplicatesIsToldAndAFetchMakesRoom) {
  using slot_pipe_internal::CellWord;
  auto pipe = SlotPipe::Create("ring", kOptions).value();
  Map("ring");
  auto leaver = SlotPipe::Connect("ring").value();
  ASSERT_TRUE(pipe->SendBytes("letter").ok());
  for (uint32_t i = 0; i < kOptions.attempts_max; ++i) ASSERT_TRUE(pipe->TryFetch().ok());
  ASSERT_TRUE(pipe->SendBytes("kept").ok());
  ASSERT_TRUE(pipe->SendBytes("left").ok());
  ASSERT_TRUE(pipe->SendBytes("dropped").ok());
  auto kept = pipe->TryFetch();
  leaver->TryFetch()->Detach();
  auto dropped = pipe->TryFetch();
  ASSERT_TRUE(pipe->SendBytes("many").ok());
  auto held = pipe->TryHold();
  // The seventh cell is that of "many", and so are all others now, until the ring is full.
  constexpr uint64_t kSeventh = 6;
  uint64_t bits;
  const auto cell = [this](uint64_t position) {
    return memory_ + layout_.cells_offset + 8 * (position % layout_.cells);
  };
  std::memcpy(&bits, cell(kSeventh), 8);
  const CellWord many(bits);
  ASSERT_TRUE(many.full());
  const uint64_t end = kSeventh + layout_.cells;
  for (uint64_t position = kSeventh; position < end; ++position) {
    bits = CellWord::Full(many.slot(), many.tag(), static_cast<uint32_t>(position / layout_.cells))
               .bits();
    std::memcpy(cell(position), &bits, 8);
  }
  std::memcpy(memory_ + slot_pipe_internal::kSharedWordsOffset +
                  offsetof(slot_pipe_internal::SharedWords, tail),
              &end, 8);

  const auto is_full = [](const absl::Status& status) {
    return SlotPipeErrorOf(status) == SlotPipeError::kRingFull &&
           slot_pipe_internal::Is(status, absl::StatusCode::kResourceExhausted,
                                  "order ring is full");
  };
  EXPECT_TRUE(is_full(held->SendBytes("new")));
  EXPECT_TRUE(*held) << "kept";
  EXPECT_EQ(pipe->StateOf(held->index()).value(), SlotState::kWriting);
  EXPECT_TRUE(is_full(kept->Return()));
  EXPECT_TRUE(*kept) << "kept";
  EXPECT_EQ(pipe->StateOf(kept->index()).value(), SlotState::kReading);
  EXPECT_TRUE(is_full(pipe->RedriveDeadLetters().status()));
  EXPECT_EQ(pipe->Status().dead_letters, 1u) << "kept";
  // Nobody has a handle of it any more, and it is not returned yet.
  const uint32_t dropped_slot = dropped->index();
  dropped = absl::UnknownError("dropped");
  EXPECT_EQ(pipe->StateOf(dropped_slot).value(), SlotState::kReading);
  // Who leaves now cannot return what it has: its place is left to who comes next.
  leaver.reset();
  EXPECT_EQ(pipe->Recover(), 0u);
  ASSERT_EQ(pipe->Status().participants.size(), 2u);
  EXPECT_FALSE(pipe->Status().participants[1].alive);

  auto message = pipe->TryFetch();
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->text(), "many");
  EXPECT_TRUE(held->SendBytes("new").ok());
  EXPECT_EQ(pipe->RedriveDeadLetters().value(), 1u);
  EXPECT_TRUE(kept->Return().ok());
  EXPECT_EQ(pipe->Recover(), 1u);
  EXPECT_TRUE(message->Release().ok());
  // Who has dropped it returns it when it looks for the dead next.
  const Deadline patience = Deadline::After(absl::Seconds(30));
  while (pipe->StateOf(dropped_slot).value() == SlotState::kReading && !patience.passed()) {
    auto slot = pipe->TryHold();
    ASSERT_TRUE(slot.ok()) << slot.status();
  }
  const std::pair<const char*, uint32_t> kOthers[] = {
      {"new", 1}, {"letter", 1}, {"kept", 2}, {"left", 2}, {"dropped", 2}};
  for (const auto& [text, attempt] : kOthers) {
    message = pipe->TryFetch();
    ASSERT_TRUE(message.ok()) << message.status();
    EXPECT_EQ(message->text(), text);
    EXPECT_EQ(message->attempt(), attempt);
    ASSERT_TRUE(message->Release().ok());
  }
  EXPECT_EQ(pipe->Status().empty, kOptions.slots);
  Unmap();
}

}  // namespace
}  // namespace mi7
