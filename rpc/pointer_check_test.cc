#include "rpc/pointer_check.h"

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>
#include <gtest/gtest.h>
#include <kj/exception.h>

namespace mi7 {
namespace {

using Words = std::vector<uint64_t>;

constexpr uint32_t kDeep = 64;

bool Sound(const Words& words, uint32_t nesting_max = kDeep) {
  // In memory of just that size, so that a sanitizer sees each look beyond it.
  const auto exact = std::make_unique<uint64_t[]>(words.size());
  std::copy(words.begin(), words.end(), exact.get());
  return PointersAreSound(
      kj::arrayPtr(reinterpret_cast<const capnp::word*>(exact.get()), words.size()), nesting_max);
}

constexpr uint64_t Struct(int32_t offset, uint16_t data, uint16_t pointers) {
  return (static_cast<uint32_t>(offset) << 2) | uint64_t{data} << 32 | uint64_t{pointers} << 48;
}
constexpr uint64_t List(int32_t offset, uint32_t element_size, uint32_t count) {
  return (static_cast<uint32_t>(offset) << 2 | 1) | uint64_t{element_size} << 32 |
         uint64_t{count} << 35;
}

// All that is in a message, as text.
void Dump(capnp::AnyPointer::Reader pointer, std::string& text);

void Dump(capnp::AnyStruct::Reader value, std::string& text) {
  text += '{';
  const auto data = value.getDataSection();
  text.append(reinterpret_cast<const char*>(data.begin()), data.size());
  text += '|';
  for (const auto pointer : value.getPointerSection()) Dump(pointer, text);
  text += '}';
}

void Dump(capnp::AnyPointer::Reader pointer, std::string& text) {
  switch (pointer.getPointerType()) {
    case capnp::PointerType::NULL_:
      text += '0';
      return;
    case capnp::PointerType::STRUCT:
      return Dump(pointer.getAs<capnp::AnyStruct>(), text);
    case capnp::PointerType::CAPABILITY:
      text += 'C';
      return;
    case capnp::PointerType::LIST:
      break;
  }
  auto list = pointer.getAs<capnp::AnyList>();
  text += '[' + std::to_string(list.size());
  switch (list.getElementSize()) {
    case capnp::ElementSize::POINTER:
      for (const auto element : list.as<capnp::List<capnp::AnyPointer>>()) Dump(element, text);
      break;
    case capnp::ElementSize::INLINE_COMPOSITE:
      for (const auto element : list.as<capnp::List<capnp::AnyStruct>>()) Dump(element, text);
      break;
    default: {
      const auto bytes = list.getRawBytes();
      text.append(reinterpret_cast<const char*>(bytes.begin()), bytes.size());
    }
  }
  text += ']';
}

Words Flat(capnp::MessageBuilder& message) {
  const auto segments = message.getSegmentsForOutput();
  Words words;
  for (const auto segment : segments) {
    const size_t at = words.size();
    words.resize(at + segment.size());
    std::memcpy(&words[at], segment.begin(), segment.size() * sizeof(uint64_t));
  }
  return words;
}

// Messages of every kind of object.
std::vector<Words> Ordinary() {
  std::vector<Words> all;
  {
    capnp::MallocMessageBuilder text;
    auto root = text.initRoot<capnp::AnyPointer>().initAsAnyStruct(1, 2);
    root.getPointerSection()[0].setAs<capnp::Text>("some text");
    root.getPointerSection()[1].setAs<capnp::Data>(kj::StringPtr("data").asBytes());
    all.push_back(Flat(text));
  }
  {
    capnp::MallocMessageBuilder lists;
    auto root = lists.initRoot<capnp::AnyPointer>().initAsAnyStruct(0, 4);
    root.getPointerSection()[0].initAs<capnp::List<bool>>(70).set(69, true);
    root.getPointerSection()[1].initAs<capnp::List<uint16_t>>(5).set(4, 7);
    auto texts = root.getPointerSection()[2].initAs<capnp::List<capnp::Text>>(3);
    texts.set(0, "a");
    texts.set(2, "a longer one");
    all.push_back(Flat(lists));
  }
  {
    capnp::MallocMessageBuilder composite;
    auto root = composite.initRoot<capnp::AnyPointer>().initAsAnyStruct(2, 1);
    auto list = root.getPointerSection()[0].initAsListOfAnyStruct(1, 2, 3);
    for (uint32_t i = 0; i < 3; ++i) {
      auto element = list[i];
      element.getDataSection()[0] = static_cast<kj::byte>(i);
      element.getPointerSection()[i % 2].setAs<capnp::Text>("element");
    }
    all.push_back(Flat(composite));
  }
  return all;
}

TEST(PointerCheckTest, OrdinaryMessagesAreSound) {
  for (const Words& words : Ordinary()) EXPECT_TRUE(Sound(words)) << words.size();
  EXPECT_TRUE(Sound({0})) << "null";
  EXPECT_TRUE(Sound({Struct(-1, 0, 0)})) << "an empty struct";
  EXPECT_TRUE(Sound({Struct(0, 0, 1), List(0, 2, 8), 0})) << "8 bytes at the very end";
  EXPECT_TRUE(Sound({Struct(0, 0, 1), List(0, 0, 0)})) << "no elements, of nothing";
  EXPECT_TRUE(Sound({Struct(0, 0, 1), List(0, 7, 0), Struct(0, 1, 1)})) << "no composite elements";
}

TEST(PointerCheckTest, WhatLiesOutsideIsNotSound) {
  const Words kBad[] = {
      {},
      {Struct(0, 1, 0)},
      {Struct(1, 0, 1), 0},
      {Struct(-2, 0, 1), 0},
      {Struct(0x1fffffff, 0, 1), 0},
      {Struct(-0x20000000, 0, 1), 0},
      {Struct(0, 0, 1), List(0, 2, 9), 0},
      {Struct(0, 0, 1), List(0, 5, 2), 0},
      {Struct(0, 0, 1), List(0, 1, 65), 0},
      {Struct(0, 0, 1), List(-3, 2, 1), 0},
      {Struct(0, 0, 1), List(0, 6, 2), 0},
      {Struct(0, 0, 1), List(0, 2, 0x1fffffff), 0},
      {Struct(0, 0, 1), List(0, 7, 0)},  // its tag
      {Struct(0, 0, 1), List(0, 7, 2), Struct(1, 1, 0), 0},
  };
  for (const Words& words : kBad) {
    EXPECT_FALSE(Sound(words)) << (words.empty() ? 0 : words.back()) << " " << words.size();
  }
}

TEST(PointerCheckTest, WhatIsOutOfTheOrdinaryIsLeftToTheReader) {
  EXPECT_FALSE(Sound({Struct(0, 0, 1), 3})) << "a capability";
  EXPECT_FALSE(Sound({2, 0})) << "a far pointer";
  EXPECT_FALSE(Sound({Struct(0, 0, 1), List(0, 0, 5)})) << "elements of nothing";
  EXPECT_FALSE(Sound({Struct(0, 0, 1), List(0, 7, 0), Struct(5, 0, 0)})) << "structs of nothing";
  EXPECT_FALSE(Sound({Struct(0, 0, 1), List(0, 7, 1), Struct(2, 1, 0), 0})) << "more than fit";
  EXPECT_FALSE(Sound({Struct(0, 0, 1), List(0, 7, 1), List(1, 1, 0), 0})) << "a tag of a list";
  EXPECT_FALSE(Sound({Struct(0, 0, 2), List(1, 5, 2), List(0, 5, 2), 0, 0})) << "words twice";
  EXPECT_FALSE(Sound({Struct(-1, 0, 1)})) << "a struct that contains itself";
}

TEST(PointerCheckTest, NestingIsBounded) {
  // Structs of one pointer, each in the one before it.
  for (const uint32_t depth : {1u, 2u, 5u}) {
    Words words(depth, Struct(0, 0, 1));
    words.push_back(0);
    EXPECT_TRUE(Sound(words, depth + 1)) << depth;
    EXPECT_FALSE(Sound(words, depth)) << depth << ": where the last pointer, null, could lead to";
  }
}

TEST(PointerCheckTest, PointersAreBounded) {
  for (const uint32_t count : {kCheckedPointersMax - 2, kCheckedPointersMax - 1}) {
    // The root's, and that of the list.
    Words words = {Struct(0, 0, 1), List(0, 6, count)};
    words.resize(2 + count);
    EXPECT_EQ(Sound(words), count + 2 <= kCheckedPointersMax) << count;
  }
}

// Whatever is found sound, Cap'n Proto's own reader finds sound, too, and reads the same.
TEST(PointerCheckTest, WhatIsSoundReadsAsWithAllChecks) {
  const std::vector<Words> seeds = Ordinary();
  std::mt19937_64 random(20260);
  int sound = 0;
  constexpr int kMessages = 60'000;
  for (int i = 0; i < kMessages; ++i) {
    Words words = seeds[random() % seeds.size()];
    const int changes = static_cast<int>(random() % 3) + 1;
    for (int change = 0; change < changes; ++change) {
      uint64_t& word = words[random() % words.size()];
      switch (random() % 4) {
        case 0:
          word ^= uint64_t{1} << random() % 64;
          break;
        case 1:
          word = words[random() % words.size()];
          break;
        case 2:
          word += (random() % 9 - 4) << 2;  // the place
          break;
        default:
          word = Struct(static_cast<int32_t>(random() % 8) - 2, random() % 3, random() % 3);
      }
    }
    if (random() % 8 == 0) words.resize(1 + random() % words.size());
    const auto exact = std::make_unique<uint64_t[]>(words.size());
    std::copy(words.begin(), words.end(), exact.get());
    const auto segment =
        kj::arrayPtr(reinterpret_cast<const capnp::word*>(exact.get()), words.size());
    if (!PointersAreSound(segment, kDeep)) continue;
    ++sound;
    std::string unchecked;
    Dump(capnp::readMessageUnchecked<capnp::AnyPointer>(segment.begin()), unchecked);
    const kj::ArrayPtr<const capnp::word> segments[] = {segment};
    capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments, 1));
    std::string checked;
    try {
      Dump(reader.getRoot<capnp::AnyPointer>(), checked);
    } catch (const kj::Exception& exception) {
      FAIL() << i << ": " << exception.getDescription().cStr();
    }
    ASSERT_EQ(unchecked, checked) << i;
  }
  EXPECT_GT(sound, kMessages / 20);
  EXPECT_LT(sound, kMessages * 9 / 10);
}

}  // namespace
}  // namespace mi7
