#include "transport/message.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <capnp/any.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {
std::atomic<size_t> allocation_count{0};
}  // namespace

// Counts what this test allocates.
void* operator new(size_t bytes) {
  allocation_count.fetch_add(1, std::memory_order_relaxed);
  if (void* const memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace mi7::transport {
namespace {

using testing::HasSubstr;

// Backing of what is parsed in these tests.
class CountingBacking final : public Backing {
 public:
  ~CountingBacking() = default;
  void Release(uint64_t cookie) override {
    ++released;
    last_cookie = cookie;
  }
  int released = 0;
  uint64_t last_cookie = 0;
};

OutgoingMessage NewReturn(size_t bytes) {
  OutgoingMessage message = NewHeapMessage(bytes);
  message->header.type = FrameType::kReturn;
  return message;
}

void FillData(MessageBody& message, size_t bytes, int value = 0x5A) {
  capnp::Data::Builder data =
      message.getRoot<capnp::AnyPointer>().initAs<capnp::Data>(static_cast<capnp::uint>(bytes));
  std::memset(data.begin(), value, bytes);
}

// The message as it travels, in whole words.
std::vector<uint64_t> Flatten(const PieceList& pieces) {
  std::string bytes;
  for (const ByteSpan& piece : pieces) {
    bytes.append(reinterpret_cast<const char*>(piece.data), piece.size);
  }
  EXPECT_EQ(bytes.size() % 8, 0u);
  std::vector<uint64_t> words(bytes.size() / 8);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

absl::StatusOr<IncomingMessage> Parse(const std::vector<uint64_t>& words, Backing* backing,
                                      const Limits& limits = {}) {
  FrameHeader header;
  std::memcpy(static_cast<void*>(&header), words.data(), sizeof(header));
  header.size = static_cast<uint32_t>(words.size() * 8);
  return ParseMessage(header, std::as_bytes(std::span(words)).subspan(sizeof(header)), backing, 17,
                      limits);
}

capnp::Data::Reader DataOf(capnp::MessageReader& reader) {
  return reader.getRoot<capnp::AnyPointer>().getAs<capnp::Data>();
}

TEST(HeapMessageTest, OneSegmentIsOneContiguousPiece) {
  OutgoingMessage message = NewReturn(100);
  FillData(*message, 100);
  PieceList pieces;
  ASSERT_TRUE(FinishHeapMessage(*message, Limits{}, pieces).ok());
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0].size, 32 + 8 + 8 + 104u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(pieces[0].data) % 8, 0u);
  EXPECT_EQ(message->header.size, pieces[0].size);
  EXPECT_EQ(MessageBytes(*message), pieces[0].size);
}

TEST(HeapMessageTest, SmallExtraPartStaysInTheSamePiece) {
  for (const size_t extra_bytes : {size_t{8}, size_t{216}, size_t{224}, size_t{60000}}) {
    OutgoingMessage message = NewReturn(100);
    FillData(*message, 100);
    const std::vector<std::byte> extra(extra_bytes, std::byte{7});
    message->SetExtra(extra);
    PieceList pieces;
    ASSERT_TRUE(FinishHeapMessage(*message, Limits{}, pieces).ok());
    EXPECT_EQ(pieces.size(), extra_bytes <= 216 ? 1u : 2u);
    EXPECT_EQ(message->header.extra_size, extra_bytes);
    CountingBacking backing;
    const std::vector<uint64_t> words = Flatten(pieces);
    const absl::StatusOr<IncomingMessage> parsed = Parse(words, &backing);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_TRUE(std::ranges::equal(parsed->extra(), extra));
    ASSERT_EQ(parsed->segments().size(), 1u);
  }
}

TEST(HeapMessageTest, ExtraPartMayBeReplacedAlsoByAPartOfItself) {
  OutgoingMessage message = NewReturn(0);
  std::vector<std::byte> extra(1000);
  for (size_t i = 0; i < extra.size(); ++i) extra[i] = static_cast<std::byte>(i / 8);
  message->SetExtra(extra);
  message->SetExtra(message->extra().subspan(800));  // from the side block into the room
  ASSERT_EQ(message->extra().size(), 200u);
  EXPECT_EQ(message->extra()[0], std::byte{100});
  message->SetExtra(message->extra().subspan(96));  // within the room, overlapping
  ASSERT_EQ(message->extra().size(), 104u);
  EXPECT_EQ(message->extra()[0], std::byte{112});
  EXPECT_EQ(message->extra()[103], std::byte{124});
  message->SetExtra({});
  EXPECT_TRUE(message->extra().empty());
}

TEST(HeapMessageTest, ManySegmentsTravelWithTheirTable) {
  for (const uint32_t parts : {2u, 3u, 14u, 15u, 16u, 17u, 300u}) {
    OutgoingMessage message = NewReturn(32 << 10);
    static const std::vector<uint64_t> outside(4, 0x0101010101010101);
    auto list = message->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(parts);
    for (uint32_t i = 0; i < parts; ++i) {
      const capnp::Data::Reader part(reinterpret_cast<const kj::byte*>(outside.data()), 32);
      list.adopt(i, message->getOrphanage().referenceExternalData(part));
    }
    PieceList pieces;
    ASSERT_TRUE(FinishHeapMessage(*message, Limits{}, pieces).ok());
    const std::vector<uint64_t> words = Flatten(pieces);
    ASSERT_EQ(words.size() * 8, message->header.size);
    CountingBacking backing;
    absl::StatusOr<IncomingMessage> parsed = Parse(words, &backing);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_EQ(parsed->segments().size(), parts + 1);
    capnp::SegmentArrayMessageReader reader({parsed->segments().data(), parsed->segments().size()});
    const auto received = reader.getRoot<capnp::AnyPointer>().getAs<capnp::List<capnp::Data>>();
    for (const capnp::Data::Reader part : received) EXPECT_EQ(part[31], 1);
    // What is not ours was not cleared either.
    message.reset();
    EXPECT_EQ(outside[0], 0x0101010101010101u);
  }
}

TEST(HeapMessageTest, RecycledMemoryIsZero) {
  for (int round = 0; round < 100; ++round) {
    OutgoingMessage message = NewReturn(static_cast<size_t>(round) * 100);
    // More and larger objects than the first segment holds, some of them thrown away again.
    auto list = message->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(50);
    for (uint32_t i = 0; i < 50; ++i) {
      capnp::Data::Builder data = list.init(i, i * static_cast<uint32_t>(round));
      for (const kj::byte byte : data) ASSERT_EQ(byte, 0);
      std::memset(data.begin(), 0xFF, data.size());
      if (i % 3 == 0) list.disown(i);
    }
  }
}

TEST(HeapMessageTest, LimitsAreNamed) {
  Limits limits;
  limits.message_bytes_max = 1024;
  limits.extra_bytes_max = 64;
  limits.segments_max = 1;
  PieceList pieces;
  OutgoingMessage large = NewReturn(2000);
  FillData(*large, 977);
  absl::Status status = FinishHeapMessage(*large, limits, pieces);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(status.message(), "message of 1032 bytes exceeds limits.message_bytes_max, 1024 bytes");
  OutgoingMessage extra = NewReturn(0);
  extra->SetExtra(std::vector<std::byte>(72));
  status = SealMessage(*extra, limits);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("of 72 bytes exceeds limits.extra_bytes_max, 64 bytes"));
  limits.message_bytes_max = 1 << 20;
  OutgoingMessage segments = NewReturn(0);
  FillData(*segments, 100'000);
  status = FinishHeapMessage(*segments, limits, pieces);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("message of 2 segments exceeds limits.segments_max, 1; reserve it with"));
  EXPECT_TRUE(pieces.empty());
  limits.segments_max = 2;
  EXPECT_TRUE(FinishHeapMessage(*segments, limits, pieces).ok());
}

TEST(HeapMessageTest, ABodyOfManyMebibytesIsRefusedWithoutBeingCommitted) {
  OutgoingMessage message = NewReturn(0);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(500 << 20);
  const absl::Status status = SealMessage(*message, Limits{});
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("limits.message_bytes_max, 67108864"));
  // Nothing was written, and recycling does not touch it either.
  const std::byte* const place =
      reinterpret_cast<const std::byte*>(message->getSegmentsForOutput()[1].begin());
  const uintptr_t page = (reinterpret_cast<uintptr_t>(place) / 4096 + 1) * 4096;
  message.reset();
  std::vector<unsigned char> resident((500u << 20) / 4096 - 1);
  if (::mincore(reinterpret_cast<void*>(page), resident.size() * 4096, resident.data()) == 0) {
    EXPECT_EQ(std::ranges::count_if(resident, [](unsigned char r) { return (r & 1) != 0; }), 0);
  }
}

TEST(HeapMessageTest, MayBeRecycledOnAnotherThread) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    OutgoingMessage message = NewReturn(100);
    FillData(*message, 100);
    threads.emplace_back([message = std::move(message)]() mutable { message.reset(); });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(HeapMessageTest, WarmMessagesAllocateNothing) {
  PieceList pieces;
  const auto use = [&pieces](size_t bytes) {
    OutgoingMessage message = NewReturn(bytes);
    FillData(*message, bytes);
    const std::byte extra[64] = {};
    message->SetExtra(extra);
    pieces.clear();
    EXPECT_TRUE(FinishHeapMessage(*message, Limits{}, pieces).ok());
    IncomingMessage incoming = MakeIncoming(std::move(message));
    EXPECT_EQ(incoming.segments().size(), 1u);
  };
  for (const size_t bytes : {size_t{10}, size_t{3000}, size_t{100'000}, size_t{1} << 20}) {
    use(bytes);
    const size_t before = allocation_count;
    for (int i = 0; i < 100; ++i) use(bytes);
    EXPECT_EQ(allocation_count - before, 0u) << bytes;
  }
}

TEST(MakeIncomingTest, TurnsAMessageAroundInPlace) {
  OutgoingMessage message = NewReturn(100);
  message->header.call_id = 5;
  FillData(*message, 100, 0x33);
  const std::byte extra[8] = {std::byte{9}};
  message->SetExtra(extra);
  const void* const place = message->getSegmentsForOutput()[0].begin();
  ASSERT_TRUE(SealMessage(*message, Limits{}).ok());
  IncomingMessage incoming = MakeIncoming(std::move(message));
  EXPECT_FALSE(message);
  EXPECT_EQ(incoming.header().call_id, 5u);
  EXPECT_EQ(incoming.header().size, 32 + 8 + 8 + 8 + 104u);
  EXPECT_EQ(incoming.header().extra_size, 8u);
  EXPECT_EQ(incoming.extra()[0], std::byte{9});
  ASSERT_EQ(incoming.segments().size(), 1u);
  EXPECT_EQ(incoming.segments()[0].begin(), place);
  IncomingMessage moved = std::move(incoming);
  EXPECT_FALSE(incoming.has_body());
  capnp::SegmentArrayMessageReader reader({moved.segments().data(), moved.segments().size()});
  EXPECT_EQ(DataOf(reader)[99], 0x33);
}

TEST(MakeIncomingTest, ManySegments) {
  OutgoingMessage message = NewReturn(0);
  FillData(*message, 50'000, 0x44);
  ASSERT_TRUE(SealMessage(*message, Limits{}).ok());
  const IncomingMessage incoming = MakeIncoming(std::move(message));
  ASSERT_EQ(incoming.segments().size(), 2u);
  capnp::SegmentArrayMessageReader reader({incoming.segments().data(), 2});
  EXPECT_EQ(DataOf(reader).size(), 50'000u);
}

TEST(MessageDeathTest, HeadersThatBreakTheRulesAreOurBug) {
  OutgoingMessage message = NewHeapMessage(0);
  message->header.type = FrameType::kPing;  // with a body
  EXPECT_DEATH(static_cast<void>(SealMessage(*message, Limits{})),
               "a message header breaks the rules of transport/frame.h");
}

// The words of a message: header (4 words), then `body`.
std::vector<uint64_t> Message(const std::vector<uint64_t>& body) {
  std::vector<uint64_t> words(4);
  words.insert(words.end(), body.begin(), body.end());
  return words;
}
uint64_t Table(uint32_t first, uint32_t second) { return first | uint64_t{second} << 32; }

void ExpectMalformed(const std::vector<uint64_t>& body, const std::string& text,
                     const Limits& limits = {}) {
  CountingBacking backing;
  const std::vector<uint64_t> words = Message(body);
  const absl::StatusOr<IncomingMessage> parsed = Parse(words, &backing, limits);
  EXPECT_TRUE(absl::IsInvalidArgument(parsed.status())) << parsed.status();
  EXPECT_EQ(parsed.status().message(), text);
  EXPECT_EQ(backing.released, 1) << "the reference is taken over, also on failure";
  EXPECT_EQ(backing.last_cookie, 17u);
}

TEST(ParseMessageTest, BodyMayBeAbsent) {
  CountingBacking backing;
  const std::vector<uint64_t> words = Message({});
  {
    const absl::StatusOr<IncomingMessage> parsed = Parse(words, &backing);
    ASSERT_TRUE(parsed.ok());
    EXPECT_FALSE(parsed->has_body());
    EXPECT_TRUE(parsed->segments().empty());
    EXPECT_EQ(backing.released, 0);
  }
  EXPECT_EQ(backing.released, 1);
}

TEST(ParseMessageTest, SoundTablesAreReadInPlace) {
  CountingBacking backing;
  const std::vector<uint64_t> words = Message({Table(2, 1), Table(0, 2), 11, 22, 33});
  const absl::StatusOr<IncomingMessage> parsed = Parse(words, &backing);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->segments().size(), 3u);
  EXPECT_EQ(parsed->segments()[0].begin(), reinterpret_cast<const capnp::word*>(&words[6]));
  EXPECT_EQ(parsed->segments()[0].size(), 1u);
  EXPECT_EQ(parsed->segments()[1].size(), 0u);
  EXPECT_EQ(parsed->segments()[2].size(), 2u);
}

TEST(ParseMessageTest, TableMustFit) {
  ExpectMalformed({Table(2, 0)}, "message body of 8 bytes cannot hold the table of its 3 segments");
  ExpectMalformed({Table(511, 0), 0},
                  "message body of 16 bytes cannot hold the table of its 512 segments");
}

TEST(ParseMessageTest, SegmentCountIsLimited) {
  ExpectMalformed({Table(512, 0), 0},
                  "message body has 513 segments, more than limits.segments_max, 512");
  ExpectMalformed({Table(0xFFFFFFFF, 0), 0},
                  "message body has 4294967296 segments, more than limits.segments_max, 512");
  Limits limits;
  limits.segments_max = UINT32_MAX;
  ExpectMalformed({Table(0xFFFFFFFF, 0), 0},
                  "message body has 4294967296 segments, more than limits.segments_max, 4294967295",
                  limits);
  ExpectMalformed({Table(0xFFFFFFFE, 0), 0},
                  "message body of 16 bytes cannot hold the table of its 4294967295 segments",
                  limits);
}

TEST(ParseMessageTest, SizesMustAddUpExactly) {
  ExpectMalformed({Table(0, 2), 1}, "segment table adds up to 24 bytes, message body has 16");
  ExpectMalformed({Table(0, 1), 1, 2}, "segment table adds up to 16 bytes, message body has 24");
  ExpectMalformed({Table(0, 0xFFFFFFFF), 1},
                  "segment table adds up to 34359738368 bytes, message body has 16");
  // Sizes whose sum wraps in 32 bits to what would fit.
  ExpectMalformed({Table(1, 0x80000000), Table(0x80000001, 0), 1},
                  "segment table adds up to 34359738392 bytes, message body has 24");
  // In 32 bits of bytes, 2^29 words are nothing.
  ExpectMalformed({Table(2, 0x20000000), Table(0, 1), 1},
                  "segment table adds up to 4294967320 bytes, message body has 24");
}

TEST(ParseMessageTest, PaddingIsZero) {
  ExpectMalformed({Table(1, 1), Table(0, 7), 1}, "padding of the segment table is 7, must be 0");
}

TEST(CopyMessageTest, SmallOnesLieInTheGivenSpace) {
  alignas(8) std::array<std::byte, 64> space;
  IncomingMessage copy;
  {
    CountingBacking backing;
    const std::vector<uint64_t> words = Message({Table(2, 1), Table(0, 2), 11, 22, 33});
    absl::StatusOr<IncomingMessage> parsed = Parse(words, &backing);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    copy = CopyMessage(*parsed, space);
    parsed->reset();
    EXPECT_EQ(backing.released, 1);
  }
  ASSERT_EQ(copy.segments().size(), 3u);
  EXPECT_EQ(copy.segments()[0].begin(), reinterpret_cast<const capnp::word*>(space.data()));
  EXPECT_EQ(copy.segments()[1].size(), 0u);
  ASSERT_EQ(copy.segments()[2].size(), 2u);
  uint64_t last;
  std::memcpy(&last, copy.segments()[2].begin() + 1, sizeof(last));
  EXPECT_EQ(last, 33u);
  EXPECT_EQ(copy.held_bytes(), 0u);
}

TEST(CopyMessageTest, LargerOnesHaveABufferOfTheirSize) {
  alignas(8) std::array<std::byte, 64> space;
  std::vector<uint64_t> body = {Table(0, 100)};
  for (uint64_t i = 0; i < 100; ++i) body.push_back(i);
  CountingBacking backing;
  const std::vector<uint64_t> words = Message(body);
  absl::StatusOr<IncomingMessage> parsed = Parse(words, &backing);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const IncomingMessage copy = CopyMessage(*parsed, space);
  parsed->reset();
  ASSERT_EQ(copy.segments().size(), 1u);
  ASSERT_EQ(copy.segments()[0].size(), 100u);
  EXPECT_EQ(std::memcmp(copy.segments()[0].begin(), &body[1], 800), 0);
  EXPECT_GT(copy.held_bytes(), 800u);
  EXPECT_LE(copy.held_bytes(), 4096u);
}

TEST(CopyMessageTest, ExtraPartAndNoBody) {
  alignas(8) std::array<std::byte, 64> space;
  OutgoingMessage message = NewReturn(0);
  const uint64_t extra[2] = {5, 6};
  message->SetExtra(std::as_bytes(std::span(extra)));
  message->has_body = false;
  ASSERT_TRUE(SealMessage(*message, {}).ok());
  const IncomingMessage original = MakeIncoming(std::move(message));
  const IncomingMessage copy = CopyMessage(original, space);
  EXPECT_FALSE(copy.has_body());
  ASSERT_EQ(copy.extra().size(), sizeof(extra));
  EXPECT_EQ(std::memcmp(copy.extra().data(), extra, sizeof(extra)), 0);
}

}  // namespace
}  // namespace mi7::transport
