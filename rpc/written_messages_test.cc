// What is kept of what was written to a stream.

#include "rpc/written_messages.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <gtest/gtest.h>

#include "absl/functional/function_ref.h"
#include "transport/copy_counter.h"
#include "transport/message.h"

namespace mi7 {
namespace {

using transport::NewHeapMessage;
using transport::OutgoingMessage;

constexpr size_t kLarge = 2 * WrittenMessages::kCopiedBytesMax;

OutgoingMessage NewMessage(const std::string& text) {
  OutgoingMessage message = NewHeapMessage(64);
  message->getRoot<capnp::AnyPointer>().setAs<capnp::Text>(text.c_str());
  return message;
}
std::string TextOf(OutgoingMessage message) {
  return message->getRoot<capnp::AnyPointer>().getAs<capnp::Text>().asReader().cStr();
}
// Adds a message, and what is to be sent in its place.
OutgoingMessage Add(WrittenMessages& written, const std::string& text) {
  OutgoingMessage message = NewMessage(text);
  written.Add(message);
  return message;
}
std::vector<std::string> TakeAll(WrittenMessages& written, bool keep) {
  std::vector<std::string> all;
  while (written.has_unsent()) all.push_back(TextOf(written.Next(keep)));
  return all;
}

TEST(WrittenMessagesTest, AllAreThereAgainInOrderAsOftenAsTheyAreNeeded) {
  const std::vector<std::string> texts = {"one", std::string(kLarge, 'x'), "", "four",
                                          std::string(kLarge, 'y')};
  WrittenMessages written;
  for (const std::string& text : texts) EXPECT_EQ(TextOf(Add(written, text)), text);
  EXPECT_FALSE(written.has_unsent());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(written.Rewind());
    EXPECT_EQ(TakeAll(written, /*keep=*/true), texts);
  }
  ASSERT_TRUE(written.Rewind());
  EXPECT_EQ(TakeAll(written, /*keep=*/false), texts);
}

TEST(WrittenMessagesTest, ALargeMessageIsKeptWhereItIsAndASmallOneIsNot) {
  WrittenMessages written;
  OutgoingMessage large = Add(written, std::string(kLarge, 'x'));
  EXPECT_TRUE(large->shared());
  EXPECT_FALSE(Add(written, "small")->shared());
}

TEST(WrittenMessagesTest, AMessageThatAConnectionStillHasIsCopied) {
  WrittenMessages written;
  OutgoingMessage sent = Add(written, std::string(kLarge, 'x'));
  ASSERT_TRUE(written.Rewind());
  OutgoingMessage again = written.Next(/*keep=*/true);
  EXPECT_NE(again.get(), sent.get()) << "which may be written at this moment";
  EXPECT_EQ(TextOf(std::move(again)), std::string(kLarge, 'x'));
}

TEST(WrittenMessagesTest, WhatWasNotSentIsNotSentAgain) {
  WrittenMessages written;
  Add(written, "one");
  Add(written, "two");
  written.DropLast();
  Add(written, std::string(kLarge, 'x'));
  written.DropLast();
  Add(written, "three");
  ASSERT_TRUE(written.Rewind());
  EXPECT_EQ(TakeAll(written, true), (std::vector<std::string>{"one", "three"}));
}

TEST(WrittenMessagesTest, OnlyWhatIsUnsentStaysWhenWhatWasSentIsDropped) {
  WrittenMessages written;
  Add(written, "one");
  Add(written, std::string(kLarge, 'x'));
  Add(written, "three");
  ASSERT_TRUE(written.Rewind());
  EXPECT_EQ(TextOf(written.Next(true)), "one");
  written.DropSent();
  EXPECT_EQ(TakeAll(written, false), (std::vector<std::string>{std::string(kLarge, 'x'), "three"}));
}

// Segments as a connection of shared memory gives them, for one message at a time.
class Memory final : public transport::SegmentSource, public transport::FurtherSegments {
 public:
  const SegmentSource* source() const override { return this; }
  FurtherSegments* NewFurtherSegments() override { return this; }
  kj::ArrayPtr<capnp::word> Allocate(size_t minimum_bytes, size_t, bool) override {
    return kj::arrayPtr(words_, 2048).slice(0, minimum_bytes / sizeof(capnp::word));
  }
  void Drop(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) override {
    for (const auto& segment : segments) {
      if (segment.begin() == words_) std::memset(words_, 0, segment.size() * sizeof(capnp::word));
    }
  }
  void GiveUp(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>>) override {}
  bool WhileKept(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments,
                 transport::ReadSegments read) override {
    if (kept) read(segments);
    return kept;
  }
  bool kept = true;

 private:
  capnp::word words_[2048] = {};
};

// More would take the slots that others need.
TEST(WrittenMessagesTest, TheFirstSmallMessagesInSharedMemoryAreKeptWhereTheyAre) {
  constexpr size_t kCount = WrittenMessages::kSmallInSlotsMax + 3;
  std::vector<Memory> memory(kCount);
  std::vector<std::string> texts;
  WrittenMessages written;
  for (size_t i = 0; i < kCount; ++i) {
    SCOPED_TRACE(i);
    texts.push_back(std::string(3500 + i, 'x'));
    OutgoingMessage message = NewHeapMessage(0);
    message->segment_source = &memory[i];
    message->getRoot<capnp::AnyPointer>().setAs<capnp::Text>(texts.back().c_str());
    const uint64_t before = transport::copied_payload_bytes;
    written.Add(message);
    const uint64_t copied = transport::copied_payload_bytes - before;
    const bool stays = i < WrittenMessages::kSmallInSlotsMax;
    EXPECT_EQ(message->shared(), stays);
    // The root, where it refers to, and the text with its end.
    EXPECT_EQ(copied, stays ? 0 : 16 + (texts.back().size() + 8) / 8 * 8) << "it is counted";
  }
  ASSERT_TRUE(written.Rewind());
  EXPECT_EQ(TakeAll(written, /*keep=*/true), texts);
  ASSERT_TRUE(written.Rewind());
  EXPECT_EQ(TakeAll(written, /*keep=*/false), texts);
}

TEST(WrittenMessagesTest, AMessageWhoseMemoryWasNeededIsMissed) {
  for (const bool kept : {true, false}) {
    Memory memory;
    WrittenMessages written;
    OutgoingMessage message = NewHeapMessage(0);
    message->segment_source = &memory;
    message->getRoot<capnp::AnyPointer>().setAs<capnp::Text>(std::string(kLarge, 'x').c_str());
    written.Add(message);
    message.reset();
    memory.kept = kept;
    EXPECT_EQ(written.Rewind(), kept);
    if (!kept) continue;
    EXPECT_EQ(TextOf(written.Next(false)), std::string(kLarge, 'x'));
  }
}

}  // namespace
}  // namespace mi7
