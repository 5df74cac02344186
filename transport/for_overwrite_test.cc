#include "transport/for_overwrite.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <capnp/any.h>
#include <capnp/message.h>
#include <gtest/gtest.h>

#include "transport/message.h"

namespace mi7::transport {
namespace {

using capnp::AnyPointer;
using capnp::Data;

// What no first segment holds, and leaves three bytes of its last word.
constexpr unsigned kBytes = 100'005;

template <typename Builder>
concept CanBeMade = requires(AnyPointer::Builder pointer,
                             Builder (AnyPointer::Builder::*init)(unsigned)) {
  InitForOverwrite(pointer, init, 1u);
};
static_assert(CanBeMade<Data::Builder> && CanBeMade<capnp::Text::Builder> &&
              CanBeMade<capnp::List<uint16_t>::Builder>);
// What has pointers would have some to anywhere.
static_assert(!CanBeMade<capnp::List<Data>::Builder> && !CanBeMade<capnp::AnyStruct::Builder> &&
              !CanBeMade<capnp::List<capnp::List<uint8_t>>::Builder>);

Data::Builder InitData(MessageBody& message, unsigned bytes = kBytes) {
  return message.getRoot<AnyPointer>().initAs<Data>(bytes);
}
Data::Builder InitDataForOverwrite(MessageBody& message, unsigned bytes = kBytes) {
  const ForOverwrite scope;
  return InitData(message, bytes);
}

bool IsZero(const Data::Builder data) {
  return std::all_of(data.begin(), data.end(), [](uint8_t byte) { return byte == 0; });
}

// Leaves memory that has something in it, for the next message for overwriting of this size.
void LeaveContent() {
  const OutgoingMessage message = NewHeapMessage(0);
  std::memset(InitDataForOverwrite(*message).begin(), 0xff, kBytes);
}

TEST(ForOverwriteTest, MemoryIsAsTheMessageBeforeLeftIt) {
  LeaveContent();
  const OutgoingMessage message = NewHeapMessage(0);
  EXPECT_EQ(InitDataForOverwrite(*message)[kBytes / 2], 0xff);
}

TEST(ForOverwriteTest, WhatIsNotForOverwritingIsZeroAfterIt) {
  for (int turn = 0; turn < 3; ++turn) {
    LeaveContent();
    const OutgoingMessage message = NewHeapMessage(0);
    Data::Builder data = InitData(*message);
    ASSERT_TRUE(IsZero(data)) << turn;
    std::memset(data.begin(), 0xff, kBytes);
  }
}

TEST(ForOverwriteTest, OneSegmentOfJustItsSizeWhosePaddingIsZero) {
  LeaveContent();
  const OutgoingMessage message = NewHeapMessage(0);
  Data::Builder data = InitDataForOverwrite(*message);
  std::memset(data.begin(), 0xff, kBytes);
  const auto segments = message->Segments();
  ASSERT_EQ(segments.size(), 2u);
  // Cap'n Proto's pointer to it, and its words.
  EXPECT_EQ(segments[1].size(), 1 + (kBytes + 7) / 8);
  const auto* const end = reinterpret_cast<const uint8_t*>(segments[1].end());
  EXPECT_EQ(std::string(end - 3, end), std::string(3, '\0'));
}

TEST(ForOverwriteTest, TextEndsWithItsZero) {
  LeaveContent();
  const OutgoingMessage message = NewHeapMessage(0);
  capnp::Text::Builder text = [&] {
    const ForOverwrite scope;
    return message->getRoot<AnyPointer>().initAs<capnp::Text>(kBytes);
  }();
  std::memset(text.begin(), 'x', kBytes);
  EXPECT_EQ(std::strlen(text.cStr()), kBytes);
}

TEST(ForOverwriteTest, WhatComesAfterItIsAsSmallAsWithoutIt) {
  const OutgoingMessage message = NewHeapMessage(0);
  auto structure = message->getRoot<AnyPointer>().initAsAnyStruct(0, 2);
  auto pointers = structure.getPointerSection();
  {
    const ForOverwrite scope;
    pointers[0].initAs<Data>(10 * kBytes);
  }
  EXPECT_TRUE(IsZero(pointers[1].initAs<Data>(5000)));
  EXPECT_LT(message->HeldBytes(), 10 * kBytes + 30'000);
}

TEST(ForOverwriteTest, OnlyWhileItLives) {
  EXPECT_FALSE(ForOverwrite::wanted());
  {
    const ForOverwrite outer;
    { const ForOverwrite inner; }
    EXPECT_TRUE(ForOverwrite::wanted());
  }
  EXPECT_FALSE(ForOverwrite::wanted());
}

}  // namespace
}  // namespace mi7::transport
