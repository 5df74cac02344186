#include "rpc/pointer_check.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>
#include <gtest/gtest.h>
#include <kj/exception.h>
#include <kj/string.h>

#include "base/check.h"
#include "schema/protocol.capnp.h"

namespace mi7 {
namespace {

using Words = std::vector<uint64_t>;
using Segment = kj::ArrayPtr<const capnp::word>;

constexpr uint32_t kDeep = 64;

// A page between two that cannot be read: a look behind the end, or before the begin, of what lies
// there is a fault, also inside Cap'n Proto's library.
class Page {
 public:
  Page() {
    void* const mapped = ::mmap(nullptr, 3 * kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MI7_CHECK(mapped != MAP_FAILED, "three pages can be had");
    start_ = static_cast<std::byte*>(mapped);
    MI7_CHECK(::mprotect(start_ + kBytes, kBytes, PROT_READ | PROT_WRITE) == 0, "one is used");
  }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;
  ~Page() { ::munmap(start_, 3 * kBytes); }
  Segment Put(const Words& words, bool at_end) {
    const size_t bytes = words.size() * sizeof(uint64_t);
    MI7_CHECK(bytes <= kBytes, "it fits");
    std::byte* const place = start_ + kBytes + (at_end ? kBytes - bytes : 0);
    if (bytes != 0) std::memcpy(place, words.data(), bytes);
    return {reinterpret_cast<const capnp::word*>(place), words.size()};
  }

 private:
  static constexpr size_t kBytes = 4096;
  std::byte* start_;
};

bool Sound(const Words& words, uint32_t nesting_max = kDeep) {
  Page page;
  return PointersAreSound(page.Put(words, /*at_end=*/false), nesting_max) &&
         PointersAreSound(page.Put(words, /*at_end=*/true), nesting_max);
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
  {
    capnp::MallocMessageBuilder typed;
    auto metadata = typed.initRoot<protocol::CallExtra>().initMetadata(2);
    metadata[0].setKey("key");
    metadata[0].getValue().setText("value");
    metadata[1].setKey("bin");
    metadata[1].getValue().setBinary(kj::StringPtr("12345").asBytes());
    all.push_back(Flat(typed));
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

TEST(PointerCheckTest, SchemasThatLeadToAnyPointerAreKnown) {
  EXPECT_FALSE(MentionsAnyPointer(capnp::Schema::from<protocol::Hello>()));
  EXPECT_FALSE(MentionsAnyPointer(capnp::Schema::from<protocol::CallExtra>()));
  EXPECT_TRUE(MentionsAnyPointer(capnp::Schema::from<capnp::schema::Node>()))
      << "by Value, in a union of a union";
}

// What `read` makes of a message; nothing when that is malformed.
template <typename Read>
std::optional<std::string> TextOf(Read read) {
  try {
    return read();
  } catch (const kj::Exception&) {
    return std::nullopt;
  }
}

std::string DumpOf(capnp::AnyPointer::Reader root) {
  std::string text;
  Dump(root, text);
  return text;
}

template <typename T>
std::string TypedTextOf(capnp::AnyPointer::Reader root) {
  return kj::str(root.getAs<T>()).cStr();
}

// A copy has the same words, however it was read.
std::string CopyOf(capnp::AnyPointer::Reader root) {
  capnp::MallocMessageBuilder copy;
  copy.setRoot(root);
  std::string text = std::to_string(root.targetSize().wordCount);
  for (const uint64_t word : Flat(copy)) text += ' ' + std::to_string(word);
  return text;
}

Words Altered(const Words& seed, std::mt19937_64& random) {
  Words words = seed;
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
  return words;
}

// Whatever is found sound, Cap'n Proto's own reader finds sound, too, and reads the same: each
// object as what it is, as schemas say that were not meant, and copied.
TEST(PointerCheckTest, WhatIsSoundReadsAsWithAllChecks) {
  constexpr uint32_t kNesting[] = {2, 3, 5, kDeep};
  const std::vector<Words> seeds = Ordinary();
  std::mt19937_64 random(20260);
  Page page;
  int sound = 0;
  int typed = 0;
  constexpr int kMessages = 60'000;
  for (int i = 0; i < kMessages; ++i) {
    const Segment segment =
        page.Put(Altered(seeds[random() % seeds.size()], random), /*at_end=*/i % 2 == 0);
    const uint32_t nesting_max = kNesting[random() % std::size(kNesting)];
    if (!PointersAreSound(segment, nesting_max)) continue;
    ++sound;
    const auto unchecked = capnp::readMessageUnchecked<capnp::AnyPointer>(segment.begin());
    capnp::ReaderOptions options;
    options.nestingLimit = static_cast<int>(nesting_max);
    capnp::SegmentArrayMessageReader reader(kj::arrayPtr(&segment, 1), options);
    const auto checked = reader.getRoot<capnp::AnyPointer>();
    const auto content = TextOf([&] { return DumpOf(checked); });
    ASSERT_TRUE(content) << i << ": the reader finds it malformed";
    ASSERT_EQ(DumpOf(unchecked), *content) << i;
    ASSERT_EQ(TextOf([&] { return CopyOf(unchecked); }), TextOf([&] { return CopyOf(checked); }));
    const auto as_hello = TextOf([&] { return TypedTextOf<protocol::Hello>(checked); });
    ASSERT_EQ(TextOf([&] { return TypedTextOf<protocol::Hello>(unchecked); }), as_hello) << i;
    const auto as_extra = TextOf([&] { return TypedTextOf<protocol::CallExtra>(checked); });
    ASSERT_EQ(TextOf([&] { return TypedTextOf<protocol::CallExtra>(unchecked); }), as_extra) << i;
    typed += as_hello || as_extra ? 1 : 0;
  }
  EXPECT_GT(sound, kMessages / 20);
  EXPECT_LT(sound, kMessages * 9 / 10);
  EXPECT_GT(typed, kMessages / 100);
  EXPECT_LT(typed, sound) << "some do not fit a schema that was not meant";
}

}  // namespace
}  // namespace mi7
