#pragma once

// The two words that the protocol changes by compare-and-swap: SlotWord and CellWord. Value types
// of 8 bytes; what they mean together is in protocol.h.
//
//   SlotWord   phase:3 | attempts:5 | owner:12 | generation:44, which is cycle:38 | holds:6
//   CellWord   full:1 | slot:14 | tag:24 | lap:25
//
// A generation changes whenever a slot gets empty: its cycle when a message was consumed, its holds
// when it was held and given back without being sent. A cell carries the low bits of the cycle as
// its tag. Only cycles count there because each of them takes one push, so that a tag cannot come
// again while its cell is in the ring (kCellsMax); giving back takes none.

#include <cstdint>

namespace mi7::slot_pipe_internal {

// What a slot is in. Zero-filled memory is an empty slot.
enum class SlotPhase : uint8_t {
  kEmpty = 0,
  kWriting = 1,  // owned; sent already if its cell is in the ring
  kReady = 2,
  kReading = 3,  // owned
  kRequeue = 4,  // owned; on its way back into the ring; can be fetched as a ready one
  kDeadLetter = 5,
  kReadingDeadLetter = 6,  // owned; a dead letter again, unless it is released or redriven
};
inline constexpr uint32_t kPhases = 7;

// Nobody. Participants are 0 to kNoOwner - 1.
inline constexpr uint16_t kNoOwner = 0xFFF;
inline constexpr uint32_t kSlotsMax = 1u << 14;
inline constexpr uint32_t kAttemptsLimit = 31;

class SlotWord {
 public:
  static constexpr int kCycleBits = 38;

  constexpr SlotWord() = default;
  explicit constexpr SlotWord(uint64_t bits) : bits_(bits) {}

  constexpr uint64_t bits() const { return bits_; }
  constexpr SlotPhase phase() const { return static_cast<SlotPhase>(bits_ >> kPhaseShift); }
  // How often the message was fetched. A look at a dead letter is none.
  constexpr uint32_t attempts() const { return (bits_ >> kAttemptsShift) & kAttemptsLimit; }
  constexpr uint16_t owner() const { return (bits_ >> kOwnerShift) & kNoOwner; }
  constexpr uint64_t generation() const { return bits_ & kGenerationMask; }
  // Messages that this slot has carried.
  constexpr uint64_t cycle() const { return generation() >> kHoldsBits; }
  constexpr uint32_t tag() const { return cycle() & kTagMask; }
  constexpr bool sound() const { return bits_ >> kPhaseShift < kPhases; }

  // Whether whoever finds the slot's cell in the ring may fetch the message.
  constexpr bool Fetchable() const {
    return phase() == SlotPhase::kReady || phase() == SlotPhase::kWriting ||
           phase() == SlotPhase::kRequeue;
  }
  constexpr bool OwnedBy(uint16_t participant) const {
    return owner() == participant &&
           (phase() == SlotPhase::kWriting || phase() == SlotPhase::kRequeue || BeingRead());
  }
  constexpr bool BeingRead() const {
    return phase() == SlotPhase::kReading || phase() == SlotPhase::kReadingDeadLetter;
  }

  // The words that follow this one.
  constexpr SlotWord Writing(uint16_t participant) const {
    return Make(SlotPhase::kWriting, 0, participant, generation());
  }
  constexpr SlotWord Ready() const {
    return Make(SlotPhase::kReady, attempts(), kNoOwner, generation());
  }
  constexpr SlotWord Reading(uint16_t participant) const {
    return Make(SlotPhase::kReading, NextAttempt(), participant, generation());
  }
  constexpr SlotWord ReadingDeadLetter(uint16_t participant) const {
    return Make(SlotPhase::kReadingDeadLetter, attempts(), participant, generation());
  }
  // Keeps the owner; `attempts` is what the next fetch counts from.
  constexpr SlotWord Requeue(uint32_t attempts) const {
    return Make(SlotPhase::kRequeue, attempts, owner(), generation());
  }
  constexpr SlotWord DeadLetter() const {
    return Make(SlotPhase::kDeadLetter, attempts(), kNoOwner, generation());
  }
  constexpr SlotWord Consumed() const {
    return Make(SlotPhase::kEmpty, 0, kNoOwner, (cycle() + 1) << kHoldsBits);
  }
  constexpr SlotWord GivenBack() const {
    return Make(SlotPhase::kEmpty, 0, kNoOwner,
                cycle() << kHoldsBits | ((generation() + 1) & kHoldsMask));
  }

  friend constexpr bool operator==(SlotWord, SlotWord) = default;

 private:
  static constexpr int kHoldsBits = 6;
  static constexpr int kOwnerShift = kHoldsBits + kCycleBits;
  static constexpr int kAttemptsShift = 56;
  static constexpr int kPhaseShift = 61;
  static constexpr uint64_t kGenerationMask = (uint64_t{1} << kOwnerShift) - 1;
  static constexpr uint64_t kHoldsMask = (uint64_t{1} << kHoldsBits) - 1;
  static constexpr uint64_t kTagMask = (uint64_t{1} << 24) - 1;

  constexpr uint32_t NextAttempt() const {
    return attempts() < kAttemptsLimit ? attempts() + 1 : kAttemptsLimit;
  }
  static constexpr SlotWord Make(SlotPhase phase, uint32_t attempts, uint16_t owner,
                                 uint64_t generation) {
    return SlotWord(static_cast<uint64_t>(phase) << kPhaseShift |
                    uint64_t{attempts} << kAttemptsShift | uint64_t{owner} << kOwnerShift |
                    (generation & kGenerationMask));
  }

  uint64_t bits_ = 0;
};

class CellWord {
 public:
  constexpr CellWord() = default;
  explicit constexpr CellWord(uint64_t bits) : bits_(bits) {}

  static constexpr CellWord Full(uint32_t slot, uint32_t tag, uint32_t lap) {
    return CellWord(uint64_t{1} << 63 | uint64_t{slot} << 49 | uint64_t{tag} << 25 | lap);
  }
  // As it waits for the push of lap `lap`. Zero-filled memory waits for that of lap 0.
  static constexpr CellWord Empty(uint32_t lap) { return CellWord(lap & kLapMask); }

  constexpr uint64_t bits() const { return bits_; }
  constexpr bool full() const { return bits_ >> 63 != 0; }
  constexpr uint32_t slot() const { return (bits_ >> 49) & (kSlotsMax - 1); }
  constexpr uint32_t tag() const { return (bits_ >> 25) & 0xFFFFFF; }
  constexpr uint32_t lap() const { return bits_ & kLapMask; }

  // How many laps this cell is ahead of `lap`; negative when behind. Laps wrap around.
  constexpr int32_t LapsAhead(uint32_t of_lap) const {
    return static_cast<int32_t>((lap() - of_lap) << 7) >> 7;
  }
  // Empty, and waiting for the next lap's push.
  constexpr CellWord Cleared() const { return Empty(lap() + 1); }

  friend constexpr bool operator==(CellWord, CellWord) = default;

  static constexpr uint32_t kLapMask = (1u << 25) - 1;

 private:
  uint64_t bits_ = 0;
};

// A cell at position p leaves the ring before position p + kCellsMax is filled, and a slot reaches
// the same tag again after 2^24 pushes.
inline constexpr uint32_t kCellsMax = 2 * kSlotsMax;
static_assert(kCellsMax < (1u << 24));

static_assert(SlotWord().phase() == SlotPhase::kEmpty);
static_assert(SlotWord().Writing(7).owner() == 7 && SlotWord().Writing(7).generation() == 0);
static_assert(SlotWord().Writing(7).GivenBack().tag() == 0);
static_assert(SlotWord().Writing(7).GivenBack().generation() == 1);
static_assert(SlotWord(63).Writing(7).GivenBack().generation() == 0);
static_assert(SlotWord().Writing(7).Ready().Reading(9).Consumed().tag() == 1);
static_assert(SlotWord((uint64_t{1} << 44) - 1).Reading(9).Consumed().cycle() == 0);
static_assert(SlotWord().Reading(9).attempts() == 1);
static_assert(SlotWord().ReadingDeadLetter(9).OwnedBy(9) &&
              !SlotWord().ReadingDeadLetter(9).Fetchable());
static_assert(SlotWord().Reading(9).DeadLetter().ReadingDeadLetter(7).DeadLetter() ==
              SlotWord().Reading(9).DeadLetter());
static_assert(CellWord::Full(kSlotsMax - 1, 0xFFFFFF, 5).slot() == kSlotsMax - 1);
static_assert(CellWord::Full(3, 0xFFFFFF, 5).lap() == 5 &&
              !CellWord::Full(3, 9, 5).Cleared().full());
static_assert(CellWord::Empty(0).LapsAhead(CellWord::kLapMask) == 1);
static_assert(CellWord::Empty(CellWord::kLapMask).LapsAhead(0) == -1);

}  // namespace mi7::slot_pipe_internal
