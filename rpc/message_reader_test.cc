#include "rpc/message_reader.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <kj/exception.h>

#include "rpc/session_testing.h"
#include "schema/protocol.capnp.h"

namespace mi7 {
namespace {

using protocol::CapabilityDescriptor;
using protocol::Hello;
using transport::IncomingMessage;

IncomingMessage Received(const std::vector<uint64_t>& words) {
  return MakeReceived({.type = transport::FrameType::kReturn}, words);
}

// A body of one segment: its table, a root pointer, and what follows.
std::vector<uint64_t> OneSegment(uint64_t root, std::vector<uint64_t> rest) {
  std::vector<uint64_t> words = {(rest.size() + 1) << 32, root};
  words.insert(words.end(), rest.begin(), rest.end());
  return words;
}
constexpr uint64_t StructPointer(uint32_t distance, uint16_t data_words, uint16_t pointers) {
  return uint64_t{distance} << 2 | uint64_t{data_words} << 32 | uint64_t{pointers} << 48;
}
constexpr uint64_t kEmptyStructPointer = 0xfffffffc;

TEST(BodyTest, StructWithoutPointersIsReadWhereItLies) {
  const IncomingMessage message = Received(OneSegment(StructPointer(0, 1, 0), {0x00020001}));
  Body body;
  const Hello::Reader hello = body.Root<Hello>(message, {});
  EXPECT_EQ(hello.getVersionMin(), 1);
  EXPECT_EQ(hello.getVersionMax(), 2);
  EXPECT_EQ(hello.getFeatures(), 0u) << "beyond what was sent: the default";
  EXPECT_FALSE(hello.hasImplementation());
  EXPECT_EQ(body.Root<Hello>(message, {}).getVersionMax(), 2) << "again";
}

TEST(BodyTest, StructMayLieFurtherOn) {
  const IncomingMessage message =
      Received(OneSegment(StructPointer(2, 1, 0), {0xff, 0xff, 0x00020001, 0xff}));
  Body body;
  EXPECT_EQ(body.Root<Hello>(message, {}).getVersionMin(), 1);
}

TEST(BodyTest, LongerStructThanTheSchemaKnowsIsRead) {
  const IncomingMessage message =
      Received(OneSegment(StructPointer(0, 9, 0), {0x00020001, 5, 0, 0, 0, 0, 0, 0, 0xff}));
  Body body;
  EXPECT_EQ(body.Root<Hello>(message, {}).getFeatures(), 5u);
}

TEST(BodyTest, NullAndEmptyRootsAreDefaults) {
  for (const uint64_t root : {uint64_t{0}, kEmptyStructPointer}) {
    const IncomingMessage message = Received(OneSegment(root, {}));
    Body body;
    EXPECT_EQ(body.Root<Hello>(message, {}).getVersionMin(), 0);
    EXPECT_TRUE(body.Root<CapabilityDescriptor>(message, {}).isNone());
  }
}

TEST(BodyTest, StructBeyondTheEndIsMalformed) {
  const std::vector<std::vector<uint64_t>> bodies = {
      OneSegment(StructPointer(0, 1, 0), {}),
      OneSegment(StructPointer(0, 2, 0), {0}),
      OneSegment(StructPointer(1, 1, 0), {0}),
      OneSegment(StructPointer(0, 0xffff, 0), {0}),
      OneSegment(StructPointer(0x1fffffff, 0xffff, 0), {0}),
      OneSegment(StructPointer(0x3fffffff, 1, 0), {0}),  // -1: the root pointer itself
      OneSegment(StructPointer(0x20000000, 1, 0), {0}),  // far before the segment
      OneSegment(StructPointer(0, 0, 1), {}),
  };
  for (size_t i = 0; i < bodies.size(); ++i) {
    const IncomingMessage message = Received(bodies[i]);
    Body body;
    if (i == 5) {
      EXPECT_EQ(body.Root<Hello>(message, {}).getVersionMax(), 0xffff) << "its own pointer as data";
    } else {
      EXPECT_THROW(body.Root<Hello>(message, {}), kj::Exception) << i;
    }
  }
}

TEST(BodyTest, OtherPointersThanToAStructAreMalformed) {
  for (const uint64_t root : {uint64_t{1}, uint64_t{3}, uint64_t{2} | uint64_t{7} << 32}) {
    const IncomingMessage message = Received(OneSegment(root, {0, 0}));
    Body body;
    EXPECT_THROW(body.Root<Hello>(message, {}), kj::Exception) << root;
  }
}

TEST(BodyTest, BodyOfSeveralSegmentsIsRead) {
  // Two segments; the first has only a far pointer to the root pointer in the second.
  const IncomingMessage message =
      Received({0x0000000100000001, 0x0000000000000002, uint64_t{2} | uint64_t{1} << 32,
                StructPointer(0, 1, 0), 0x00020001});
  Body body;
  EXPECT_EQ(body.Root<Hello>(message, {}).getVersionMax(), 2);
}

TEST(BodyTest, PointersAreFollowed) {
  transport::OutgoingMessage sent = transport::NewHeapMessage(100);
  sent->header.type = transport::FrameType::kReturn;
  auto hello = sent->initRoot<Hello>();
  hello.setVersionMax(3);
  hello.setImplementation("somebody");
  ASSERT_TRUE(transport::SealMessage(*sent, {}).ok());
  const IncomingMessage message = transport::MakeIncoming(std::move(sent));
  Body body;
  EXPECT_EQ(body.Root<Hello>(message, {}).getVersionMax(), 3);
  EXPECT_STREQ(body.Root<Hello>(message, {}).getImplementation().cStr(), "somebody");
}

// Whether the text of `message` can be read more often than a reader, which counts, allows.
bool ReadsWithoutCounting(const IncomingMessage& message) {
  const Limits limits = {.traversal_factor = 1, .traversal_words_extra = 16};
  Body body;
  const Hello::Reader hello = body.Root<Hello>(message, limits);
  try {
    for (int i = 0; i < 100; ++i) {
      if (hello.getImplementation().size() == 0) return false;
    }
  } catch (const kj::Exception&) {
    return false;
  }
  return true;
}

TEST(BodyTest, OnlyMemoryThatNobodyChangesIsCheckedOnce) {
  transport::OutgoingMessage sent = transport::NewHeapMessage(100);
  sent->header.type = transport::FrameType::kReturn;
  sent->initRoot<Hello>().setImplementation("somebody with a name of several words");
  ASSERT_TRUE(transport::SealMessage(*sent, {}).ok());
  const IncomingMessage message = transport::MakeIncoming(std::move(sent));
  EXPECT_TRUE(ReadsWithoutCounting(message));
  const IncomingMessage::Segment segment = message.segments()[0];
  IncomingMessage others;
  others.Set(message.header(), {}, {&segment, 1}, nullptr, 0);
  EXPECT_FALSE(ReadsWithoutCounting(others)) << "a peer may change it";
}

}  // namespace
}  // namespace mi7
