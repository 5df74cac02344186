// What is delivered of a peer that is not trusted stays as it is: the peer writes all over its
// slots while the receiver still has the message, and nothing of it changes. Of a trusted peer it
// is read in place, which is how these tests know that they write where it lies. All of its slots
// are the peer's again when it is gone.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/shm_hostile/hostile_peer.h"
#include "transport/message.h"
#include "transport/shm/layout.h"

namespace mi7::shm_hostile {
namespace {

using transport::EventLoop;
using transport::IncomingMessage;
using transport::shm::Form;

struct Case {
  const char* name;
  Form form;
  uint32_t size;                // of the message
  std::vector<uint64_t> words;  // of its record
  uint32_t extra_size = 0;
  // The parts of the message: the extra one if there is one, then segments.
  size_t parts = 1;
  // Words of the record that are content, after one that counts them; nobody can change these.
  size_t inline_words = 0;
};
void PrintTo(const Case& tested, std::ostream* out) { *out << tested.name; }

// Every word of slots is this one before the message is delivered: a table of one segment of 100
// words, or of any use to nobody.
constexpr uint64_t kBefore = uint64_t{100} << 32;
constexpr uint64_t kAfter = 0x5a5a'5a5a'5a5a'5a5a;

std::vector<Case> Cases() {
  return {
      {"OneSlot", Form::kSegments, 40 + 100 * 8, {Describe(100, 3, 0)}},
      {"SeveralSlots", Form::kSegments, 40 + 1500 * 8, {Describe(1500, 2, 0)}},
      {"LargeSlot", Form::kSegments, 40 + 8000 * 8, {Describe(8000, 1, 1)}},
      {"Segments", Form::kSegments, 48 + 30 * 8, {Describe(10, 1, 0), Describe(20, 2, 0)}, 0, 2},
      {"ExtraPart",
       Form::kSegments,
       40 + 110 * 8,
       {Describe(10, 4, 0), Describe(100, 5, 0)},
       10 * 8,
       2},
      {"Stream", Form::kStream, 40 + 100 * 8, {Describe(101, 6, 0)}},
      {"FirstInline",
       Form::kFirstInline,
       48 + 102 * 8,
       {2, kBefore, kBefore, Describe(100, 7, 0)},
       0,
       2,
       2},
  };
}

std::vector<uint64_t> WordsOf(const IncomingMessage& message) {
  std::vector<uint64_t> words;
  const auto append = [&words](const void* from, size_t count) {
    const auto* const begin = static_cast<const uint64_t*>(from);
    for (size_t i = 0; i < count; ++i) {
      words.push_back(__atomic_load_n(&begin[i], __ATOMIC_RELAXED));
    }
  };
  if (!message.extra().empty()) append(message.extra().data(), message.extra().size() / 8);
  for (const auto& segment : message.segments()) append(segment.begin(), segment.size());
  return words;
}

class ChangingSlot : public testing::TestWithParam<Case> {
 protected:
  // The words of a delivered message before and after the peer has changed all of its slots.
  void Deliver(bool trusted) {
    const Case& tested = GetParam();
    auto loop = EventLoop::Create({});
    ASSERT_TRUE(loop.ok());
    PeerOptions options;
    options.trusted = trusted;
    options.parse = false;
    HostilePeer peer(loop->get(), options);
    const auto fill = [&peer](uint64_t word) {
      for (size_t i = 0; i < 2; ++i) {
        for (uint64_t& place : peer.chunk_words(i))
          __atomic_store_n(&place, word, __ATOMIC_SEQ_CST);
      }
    };
    fill(kBefore);
    for (size_t i = 0; i < 2; ++i) peer.SendChunk(i);
    RawRecord record = CallRecord(tested.form, tested.size, tested.words);
    record.header.extra_size = tested.extra_size;
    ASSERT_TRUE(peer.Put(record));
    peer.Ring();
    Witness::Event event = peer.witness().Next();
    ASSERT_EQ(event.kind, Witness::Event::kMessage) << event.status;
    EXPECT_EQ(event.message.segments().size() + (event.message.extra().empty() ? 0 : 1),
              tested.parts);
    before_ = WordsOf(event.message);
    fill(kAfter);
    after_ = WordsOf(event.message);
    EXPECT_EQ(static_cast<size_t>(std::count(before_.begin(), before_.end(), kBefore)),
              before_.size());
    EXPECT_GE(before_.size() * 8 + 48, tested.size);
    event.message.reset();
    for (uint32_t bit = 0; bit < transport::shm::kSlotsMax; ++bit) {
      if ((peer.theirs().released[bit / 64].load() >> bit % 64 & 1) != 0) released_.push_back(bit);
    }
  }
  // Where the pieces of the message begin, over both size classes.
  static std::vector<uint32_t> Bits() {
    std::vector<uint32_t> bits;
    const std::vector<uint64_t>& words = GetParam().words;
    const size_t inline_words = GetParam().inline_words;
    for (size_t i = inline_words == 0 ? 0 : 1 + inline_words; i < words.size(); ++i) {
      const auto piece = std::bit_cast<transport::shm::Descriptor>(words[i]);
      bits.push_back(piece.slot + (piece.size_class == 0 ? 0 : HostilePeer::kSlots[0]));
    }
    return bits;
  }

  std::vector<uint64_t> before_;
  std::vector<uint64_t> after_;
  std::vector<uint32_t> released_;  // of our slots, when the message is gone
};

TEST_P(ChangingSlot, WhatIsDeliveredStays) {
  Deliver(/*trusted=*/false);
  EXPECT_EQ(after_, before_);
  EXPECT_EQ(released_, Bits());
}

TEST_P(ChangingSlot, OfATrustedPeerItIsReadInPlace) {
  Deliver(/*trusted=*/true);
  std::vector<uint64_t> expected(before_.size(), kAfter);
  std::fill_n(expected.begin(), GetParam().inline_words, kBefore);
  EXPECT_EQ(after_, expected);
  EXPECT_EQ(released_, Bits());
}

INSTANTIATE_TEST_SUITE_P(All, ChangingSlot, testing::ValuesIn(Cases()),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace mi7::shm_hostile
