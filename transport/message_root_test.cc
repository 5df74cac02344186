// Root structs of heap messages: whatever was in the block before, a message holds what its own
// builder wrote and nothing else.

#include <cstdint>
#include <string>
#include <vector>

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "base/limits.h"
#include "schema/protocol.capnp.h"
#include "transport/message.h"

namespace mi7::transport {
namespace {

using protocol::CapabilityDescriptor;
using protocol::Hello;
using protocol::TraceContext;

OutgoingMessage NewReturn() {
  OutgoingMessage message = NewHeapMessage(100);
  message->header.type = FrameType::kReturn;
  return message;
}

// The body's words as they would travel.
std::vector<uint64_t> Words(MessageBody& message) {
  EXPECT_TRUE(SealMessage(message, Limits{}).ok());
  const auto segments = message.Segments();
  EXPECT_EQ(segments.size(), 1u);
  const auto* const words = reinterpret_cast<const uint64_t*>(segments[0].begin());
  return {words, words + segments[0].size()};
}

std::vector<uint64_t> FlatWords(uint32_t value) {
  OutgoingMessage message = NewReturn();
  message->initRoot<CapabilityDescriptor>().setSenderHosted(value);
  return Words(*message);
}

TEST(MessageRootTest, EveryMessageOfARowIsTheSameOnTheWire) {
  const std::vector<uint64_t> first = FlatWords(7);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(FlatWords(7), first) << i;
  OutgoingMessage plain = NewReturn();
  plain->initRoot<CapabilityDescriptor>().setSenderHosted(7);
  EXPECT_TRUE(plain->getRoot<CapabilityDescriptor>().isSenderHosted());
}

TEST(MessageRootTest, NothingOfTheMessageBeforeIsLeft) {
  for (int i = 0; i < 5; ++i) FlatWords(0xffffffff);
  OutgoingMessage message = NewReturn();
  EXPECT_EQ(message->header.call_id, 0u);
  EXPECT_TRUE(message->has_body);
  EXPECT_TRUE(message->extra().empty());
  auto root = message->initRoot<CapabilityDescriptor>();
  EXPECT_TRUE(root.isNone());
  const std::vector<uint64_t> words = Words(*message);
  for (size_t i = 1; i < words.size(); ++i) EXPECT_EQ(words[i], 0u);
}

TEST(MessageRootTest, ExtraPartAndHeaderOfTheMessageBeforeAreGone) {
  for (int i = 0; i < 5; ++i) {
    OutgoingMessage message = NewReturn();
    message->header.call_id = 17;
    const std::vector<std::byte> extra(i % 2 == 0 ? 16 : 1600, std::byte{1});
    message->SetExtra(extra);
    message->initRoot<CapabilityDescriptor>();
  }
  OutgoingMessage message = NewReturn();
  message->initRoot<CapabilityDescriptor>();
  EXPECT_TRUE(message->extra().empty());
  EXPECT_TRUE(SealMessage(*message, Limits{}).ok());
  EXPECT_EQ(message->header.extra_size, 0u);
  EXPECT_EQ(message->header.call_id, 0u);
}

TEST(MessageRootTest, PointersOfTheMessageBeforeAreGone) {
  for (int i = 0; i < 3; ++i) NewReturn()->initRoot<TraceContext>();
  for (int i = 0; i < 6; ++i) {
    OutgoingMessage message = NewReturn();
    auto root = message->initRoot<TraceContext>();
    EXPECT_FALSE(root.hasTraceparent());
    EXPECT_FALSE(root.hasTracestate());
    if (i % 3 != 0) root.setTraceparent(std::string(static_cast<size_t>(i) * 10, 'x'));
    EXPECT_EQ(Words(*message).size(), i % 3 == 0 ? 3u : 3u + static_cast<size_t>(i) * 10 / 8 + 1);
  }
}

TEST(MessageRootTest, AnotherRootThanExpectedIsAsGood) {
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 3; ++i) FlatWords(9);
    OutgoingMessage message = NewReturn();
    auto hello = message->initRoot<Hello>();
    EXPECT_EQ(hello.getFeatures(), 0u);
    hello.setFeatures(3);
    hello.setImplementation("other");
    EXPECT_TRUE(SealMessage(*message, Limits{}).ok());
    const IncomingMessage received = MakeIncoming(std::move(message));
    capnp::SegmentArrayMessageReader reader(
        kj::arrayPtr(received.segments().data(), received.segments().size()));
    EXPECT_EQ(reader.getRoot<Hello>().getFeatures(), 3u);
    EXPECT_STREQ(reader.getRoot<Hello>().getImplementation().cStr(), "other");
    EXPECT_FALSE(reader.getRoot<Hello>().hasInstanceId());
  }
}

TEST(MessageRootTest, OneThatWasNotTakenIsANullRoot) {
  for (int i = 0; i < 4; ++i) FlatWords(9);
  OutgoingMessage message = NewReturn();
  for (const uint64_t word : Words(*message)) EXPECT_EQ(word, 0u);
  message.reset();
  EXPECT_EQ(FlatWords(9)[1], FlatWords(9)[1]);
  OutgoingMessage raw = NewReturn();
  raw->getRoot<Hello>().setImplementation("not by initRoot");
  EXPECT_STREQ(raw->getRoot<Hello>().getImplementation().cStr(), "not by initRoot");
}

TEST(MessageRootTest, MessagesAtATimeDoNotShareARoot) {
  for (int round = 0; round < 4; ++round) {
    std::vector<OutgoingMessage> messages;
    std::vector<CapabilityDescriptor::Builder> roots;
    for (uint32_t i = 0; i < 40; ++i) {
      messages.push_back(NewReturn());
      roots.push_back(messages.back()->initRoot<CapabilityDescriptor>());
      EXPECT_TRUE(roots.back().isNone());
      roots.back().setSenderHosted(i);
    }
    for (uint32_t i = 0; i < 40; ++i) EXPECT_EQ(roots[i].getSenderHosted(), i);
  }
}

}  // namespace
}  // namespace mi7::transport
