// Everything that is one step away from a sound stream: prefixes, single bits, lengths at their
// edges, and a fixed random walk further out. Nothing may crash, hang, or take more memory than the
// limits allow, and what comes out is the same however the bytes are cut into pieces.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "tests/fuzz/golden_streams.h"
#include "tests/fuzz/receive_stream.h"
#include "transport/frame.h"
#include "transport/handshake.h"

namespace {
std::atomic<size_t> largest_allocation{0};

void* Allocate(size_t bytes, size_t alignment) {
  size_t largest = largest_allocation.load(std::memory_order_relaxed);
  while (bytes > largest && !largest_allocation.compare_exchange_weak(largest, bytes)) {
  }
  void* const memory =
      alignment <= alignof(std::max_align_t)
          ? std::malloc(bytes)
          : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

// Sees the size of every allocation. (Buffers that are mapped are checked by ReceiveStream.)
void* operator new(size_t bytes) { return Allocate(bytes, 1); }
void* operator new(size_t bytes, std::align_val_t alignment) {
  return Allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace mi7::fuzz {
namespace {

Limits SmallLimits() {
  Limits limits;
  limits.message_bytes_max = 128u << 10;
  limits.extra_bytes_max = 1024;
  limits.segments_max = 16;
  // What is read is copied, too: the copy of a message that amplifies is as large as this allows.
  limits.traversal_words_extra = 1024;
  return limits;
}

size_t streams_received = 0;

// Counts, so that the suite does not become smaller unnoticed.
class Count : public testing::Environment {
 public:
  void TearDown() override {
    std::printf("RELIABILITY: %zu streams received, nearly all of them bad\n", streams_received);
    if (testing::GTEST_FLAG(filter) == "*") {
      EXPECT_GE(streams_received, 100'000u);
    }
  }
};
testing::Environment* const counting = testing::AddGlobalTestEnvironment(new Count);

// Receives `stream` in one piece and in small ones; what came of it.
std::vector<Outcome> Receive(const std::vector<uint8_t>& stream) {
  const Limits limits = SmallLimits();
  largest_allocation = 0;
  const std::vector<Outcome> whole =
      ReceiveStream(stream, limits, [](size_t left) { return left; });
  // Every 16th case also byte by byte or so.
  if (++streams_received % 16 == 0) {
    const size_t piece = 1 + streams_received / 16 % 40;
    EXPECT_EQ(whole, ReceiveStream(stream, limits, [piece](size_t) { return piece; }));
  }
  EXPECT_LE(largest_allocation.load(), size_t{limits.message_bytes_max} + 4096);
  return whole;
}

// The streams that are small enough to try every change of.
std::vector<GoldenStream> SmallStreams() {
  std::vector<GoldenStream> streams;
  for (GoldenStream& stream : GoldenStreams()) {
    if (stream.bytes.size() < 4096) streams.push_back(std::move(stream));
  }
  EXPECT_GE(streams.size(), 6u);
  return streams;
}

// Where the messages of a stream begin, and where it ends.
std::vector<size_t> MessageStarts(const GoldenStream& stream) {
  std::vector<size_t> starts = {transport::kOpeningBytes};
  while (starts.back() < stream.bytes.size()) {
    uint32_t size;
    std::memcpy(&size, stream.bytes.data() + starts.back(), sizeof(size));
    starts.push_back(starts.back() + size);
  }
  EXPECT_EQ(starts.back(), stream.bytes.size());
  return starts;
}

TEST(BadFramesTest, GoldenStreamsAreReceivedWhole) {
  for (const GoldenStream& stream : GoldenStreams()) {
    SCOPED_TRACE(stream.name);
    const std::vector<Outcome> outcomes = Receive(stream.bytes);
    ASSERT_EQ(outcomes.size(), 2 + stream.message_count);
    EXPECT_EQ(outcomes[0].kind, Outcome::kOpening);
    EXPECT_EQ(outcomes[1].kind, Outcome::kHello);
    for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.code, absl::StatusCode::kOk);
  }
}

TEST(BadFramesTest, APrefixYieldsTheMessagesThatAreWholeAndNoMore) {
  for (const GoldenStream& stream : SmallStreams()) {
    SCOPED_TRACE(stream.name);
    const std::vector<Outcome> all = Receive(stream.bytes);
    const std::vector<size_t> starts = MessageStarts(stream);
    for (size_t size = 0; size < stream.bytes.size(); ++size) {
      const std::vector<Outcome> outcomes =
          Receive({stream.bytes.begin(), stream.bytes.begin() + static_cast<ptrdiff_t>(size)});
      size_t whole = 0;
      while (whole < starts.size() && starts[whole] <= size) ++whole;
      ASSERT_EQ(outcomes.size(), whole) << size;
      for (size_t i = 0; i < whole; ++i) ASSERT_EQ(outcomes[i], all[i]) << size;
    }
  }
}

TEST(BadFramesTest, ASingleWrongBitInTheOpeningIsRefused) {
  const GoldenStream stream = GoldenStreams()[0];
  for (size_t bit = 0; bit < 8 * transport::kOpeningBytes; ++bit) {
    std::vector<uint8_t> changed = stream.bytes;
    changed[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    const std::vector<Outcome> outcomes = Receive(changed);
    ASSERT_EQ(outcomes.size(), 1u) << bit;
    EXPECT_EQ(outcomes[0].code, absl::StatusCode::kFailedPrecondition) << bit;
  }
}

TEST(BadFramesTest, ASingleWrongBitNeverDoesHarm) {
  size_t refused = 0;
  size_t cases = 0;
  for (const GoldenStream& stream : SmallStreams()) {
    SCOPED_TRACE(stream.name);
    for (size_t bit = 0; bit < 8 * stream.bytes.size(); ++bit) {
      std::vector<uint8_t> changed = stream.bytes;
      changed[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      for (const Outcome& outcome : Receive(changed)) {
        refused += outcome.code != absl::StatusCode::kOk;
        EXPECT_TRUE(outcome.code == absl::StatusCode::kOk ||
                    outcome.code == absl::StatusCode::kInvalidArgument ||
                    outcome.code == absl::StatusCode::kResourceExhausted ||
                    outcome.code == absl::StatusCode::kFailedPrecondition ||
                    outcome.kind == Outcome::kHello)
            << bit;
      }
      ++cases;
    }
  }
  EXPECT_GT(cases, 15'000u);
  EXPECT_GT(refused, cases / 50) << "the rules have teeth";
}

TEST(BadFramesTest, LengthsAtTheirEdgesNeverDoHarm) {
  const uint32_t max = SmallLimits().message_bytes_max;
  std::vector<uint32_t> edges = {0,    1,    2,    7,    8,    15,   16,    17,    24,   31,
                                 32,   33,   39,   40,   41,   48,   64,    511,   512,  513,
                                 1016, 1024, 1032, 4088, 4096, 4104, 65464, 65472, 65480};
  for (const uint32_t edge :
       {max, 0x20000000u, 0x40000000u, 0x7FFFFFF8u, 0x80000000u, 0xFFFFFFF8u, 0xFFFFFFFFu}) {
    for (const uint32_t step : {0u, 1u, 8u}) {
      edges.push_back(edge - step);
      edges.push_back(edge + step);
    }
  }
  // Every 32-bit word of every stream is a length somewhere, or as good as one.
  for (const GoldenStream& stream : SmallStreams()) {
    SCOPED_TRACE(stream.name);
    for (size_t at = transport::kOpeningBytes; at + 4 <= stream.bytes.size(); at += 4) {
      for (const uint32_t edge : edges) {
        std::vector<uint8_t> changed = stream.bytes;
        std::memcpy(changed.data() + at, &edge, sizeof(edge));
        Receive(changed);
      }
    }
  }
}

TEST(BadFramesTest, AMessageOverTheLimitIsSkippedAndTheNextIsReceived) {
  GoldenStream stream = GoldenStreams()[0];
  transport::FrameHeader header;
  header.type = transport::FrameType::kCall;
  header.target = transport::TargetKind::kService;
  header.call_id = 42;
  header.size = SmallLimits().message_bytes_max + 8;
  const auto append = [&stream](const transport::FrameHeader& what) {
    const auto* const bytes = reinterpret_cast<const uint8_t*>(&what);
    stream.bytes.insert(stream.bytes.end(), bytes, bytes + sizeof(what));
  };
  append(header);
  stream.bytes.resize(stream.bytes.size() + header.size - sizeof(header), 0xEE);
  transport::FrameHeader ping;
  ping.type = transport::FrameType::kPing;
  ping.size = sizeof(ping);
  append(ping);
  const std::vector<Outcome> outcomes = Receive(stream.bytes);
  ASSERT_EQ(outcomes.size(), 4u);
  EXPECT_EQ(outcomes[2].kind, Outcome::kRejected);
  EXPECT_EQ(outcomes[2].code, absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(outcomes[2].header.call_id, 42u);
  EXPECT_EQ(outcomes[3].kind, Outcome::kMessage);
  EXPECT_EQ(outcomes[3].header.type, transport::FrameType::kPing);
}

TEST(BadFramesTest, RandomChangesNeverDoHarm) {
  const char* const given = std::getenv("MI7_TEST_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : 20'260'101;
  std::printf("MI7_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  const std::vector<GoldenStream> streams = SmallStreams();
  const int rounds = std::getenv("MI7_LONG") != nullptr ? 2'000'000 : 70'000;
  for (int i = 0; i < rounds; ++i) {
    std::vector<uint8_t> changed = streams[random() % streams.size()].bytes;
    const size_t greeting = streams[0].bytes.size();
    for (uint64_t changes = 1 + random() % 6; changes > 0; --changes) {
      if (changed.size() <= greeting) break;
      const size_t at = greeting + random() % (changed.size() - greeting);
      const auto place = changed.begin() + static_cast<ptrdiff_t>(at);
      switch (random() % 4) {
        case 0:
          *place = static_cast<uint8_t>(random());
          break;
        case 1:  // whole words, as the sizes want it
          changed.erase(place,
                        place + static_cast<ptrdiff_t>(std::min<size_t>(8, changed.size() - at)));
          break;
        case 2:
          changed.insert(place, 8, static_cast<uint8_t>(random() % 4));
          break;
        default: {
          const size_t from = random() % (changed.size() - std::min<size_t>(8, changed.size()));
          for (size_t j = 0; j < 8 && at + j < changed.size(); ++j) {
            changed[at + j] = changed[from + j];
          }
        }
      }
    }
    Receive(changed);
  }
}

}  // namespace
}  // namespace mi7::fuzz
