// A peer that writes while it is read: words of its control page, of records and of slots change at
// every moment, and pages of its slots go, between sound records that lead deep into the parsing.
// Whatever it does, nothing is
// read outside its memory (guard_pages.h), nothing crashes or hangs, the connection goes on or ends
// with a status that says the peer broke the protocol, other connections go on, and nothing is
// left.
//
// MI7_HOSTILE_MUTATIONS: words to be written, over all rounds; MI7_LONG in the environment: 10^9 of
// them. MI7_SEED: where the rounds begin; how the threads of a round meet is not repeated.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "tests/shm_hostile/guard_pages.h"
#include "tests/shm_hostile/hostile_peer.h"
#include "tests/shm_hostile/random.h"
#include "transport/frame.h"
#include "transport/message.h"
#include "transport/shm/ring.h"
#include "transport/shm/testing.h"

namespace mi7::shm_hostile {
namespace {

using transport::EventLoop;
using transport::FrameType;
using transport::TargetKind;
using transport::WaitPolicy;
using transport::shm::Cell;
using transport::shm::Form;
namespace shm = transport::shm;

#if defined(__SANITIZE_ADDRESS__)
constexpr uint64_t kMutations = 20'000'000;
#else
constexpr uint64_t kMutations = 110'000'000;
#endif

uint64_t WantedMutations() {
  const char* const wanted = std::getenv("MI7_HOSTILE_MUTATIONS");
  if (wanted != nullptr) return std::strtoull(wanted, nullptr, 10);
  return std::getenv("MI7_LONG") != nullptr ? 1'000'000'000 : kMutations;
}

// What is scribbled on, and so whether the connection must survive it.
enum Attack : uint32_t {
  kPayload,   // words of the slots: no status but that of a message alone
  kTables,    // the same of one segment table: sound and unsound in turn, while it is read
  kProgress,  // consumed, attention, bell, released, geometry: the peer's own loss
  kRecords,   // words of the ring
  kSocket,    // anything on the socket
  kEverything,
  kAttacks,
};

// A value that is wrong in an interesting way.
uint64_t Mutated(uint64_t word, Random& random) {
  const uint64_t dice = random();
  switch (dice % 8) {
    case 0:
      return dice >> 3;
    case 1:
      return word ^ uint64_t { 1 } << (dice >> 3) % 64;
    case 2:
      return word + 8;
    case 3:
      return word - 8;
    case 4:
      return word + (uint64_t{1} << 32);
    case 5:
      return ~uint64_t{0};
    case 6:
      return word & ~(uint64_t{0xff} << (dice >> 3) % 64);
    default:
      return Describe(static_cast<uint32_t>(dice >> 3) % 600, static_cast<uint16_t>(dice >> 40) % 9,
                      static_cast<uint8_t>(dice >> 60) % 3);
  }
}

void Store(uint64_t& place, uint64_t word) { __atomic_store_n(&place, word, __ATOMIC_RELAXED); }

// Content of slots: pointers to structs, lists, text and other segments.
void FillChunks(HostilePeer& peer, Random& random) {
  for (size_t size_class = 0; size_class < 2; ++size_class) {
    const auto words = peer.chunk_words(size_class);
    for (size_t i = 0; i < words.size(); ++i) {
      const uint64_t dice = random();
      uint64_t word = dice;
      switch (dice % 5) {
        case 0:  // struct of 2 words and 2 pointers, a little further on
          word = uint64_t{2} << 32 | uint64_t{2} << 48 | (dice >> 8) % 16 << 2;
          break;
        case 1:  // list of bytes, of words or of pointers
          word = 1 | (dice >> 8) % 16 << 2 | (2 + (dice >> 16) % 6) << 32 | (dice >> 24) % 40 << 35;
          break;
        case 2:  // in another segment
          word = 2 | (dice >> 8) % 64 << 3 | (dice >> 16) % 3 << 32;
          break;
        case 3:
          word = 0;
          break;
        default:
          break;
      }
      Store(words[i], word);
    }
  }
}

// A message in stream form in the first slot, of as many segments as there may be.
constexpr uint32_t kTableSegments = 8;
constexpr uint32_t kTableSegmentWords = 10;

RawRecord TableRecord() {
  constexpr uint32_t kWords = kTableSegments / 2 + 1 + kTableSegments * kTableSegmentWords;
  return CallRecord(Form::kStream, 32 + kWords * 8, {Describe(kWords, 0, 0)});
}

void WriteTable(HostilePeer& peer) {
  auto* const table = reinterpret_cast<uint32_t*>(peer.slot(0, 0));
  __atomic_store_n(&table[0], kTableSegments - 1, __ATOMIC_RELAXED);
  for (uint32_t i = 1; i <= kTableSegments; ++i) {
    __atomic_store_n(&table[i], kTableSegmentWords, __ATOMIC_RELAXED);
  }
  __atomic_store_n(&table[kTableSegments + 1], 0, __ATOMIC_RELAXED);
}

// A sound record: in the ring, in one or several slots, with an extra part, in both, in stream
// form.
RawRecord SoundRecord(HostilePeer& peer, Random& random, bool tables) {
  const uint64_t dice = random();
  const auto size_class = static_cast<uint8_t>(dice >> 8 & 1);
  const auto slot = static_cast<uint16_t>((dice >> 12) % HostilePeer::kSlots[size_class]);
  const auto words = static_cast<uint32_t>(4 + (dice >> 20) % 500);
  RawRecord record;
  switch (dice % 6) {
    case 0: {
      std::vector<uint64_t> body((dice >> 20) % 23 + 1);
      for (uint64_t& word : body) word = random();
      record = CallRecord(Form::kInline, 40 + static_cast<uint32_t>(body.size()) * 8, body);
      break;
    }
    case 1:
      record = CallRecord(Form::kSegments, 40 + words * 8, {Describe(words, slot, size_class)});
      break;
    case 2: {
      const auto pieces = static_cast<uint32_t>(2 + (dice >> 32) % 8);
      std::vector<uint64_t> all;
      for (uint32_t i = 0; i < pieces; ++i) {
        all.push_back(Describe(words / 8 + 1, static_cast<uint16_t>((slot + i) % 4), size_class));
      }
      record = CallRecord(Form::kSegments, 32 + (pieces / 2 + 1) * 8 + pieces * (words / 8 + 1) * 8,
                          all);
      break;
    }
    case 3:
      record = CallRecord(Form::kSegments, 40 + words * 8 + 64,
                          {Describe(8, slot, size_class), Describe(words, slot, size_class)});
      record.header.extra_size = 64;
      break;
    case 4: {
      const uint64_t first = 1 + (dice >> 32) % 20;
      std::vector<uint64_t> all(1 + first);
      for (uint64_t& word : all) word = random();
      all[0] = first;
      all.push_back(Describe(words, slot, size_class));
      record =
          CallRecord(Form::kFirstInline, 48 + static_cast<uint32_t>(first) * 8 + words * 8, all);
      break;
    }
    default: {
      uint64_t* const start = peer.slot(size_class, slot);
      if (tables) Store(start[0], uint64_t{words - 1} << 32);
      record = CallRecord(Form::kStream, 32 + words * 8, {Describe(words, slot, size_class)});
      break;
    }
  }
  if (dice % 6 != 3 && (dice >> 60 & 3) == 0) {
    record.header.type = FrameType::kReturn;
    record.header.target = TargetKind::kNone;
  }
  return record;
}

// Another connection of the same process, on the same loop, between two ends that keep the rules.
class Bystander {
 public:
  explicit Bystander(EventLoop* loop) : server_(std::make_shared<Echo>()) {
    auto ends = shm::ConnectPair(loop, loop, {});
    client_ = std::move(ends.first);
    accepted_ = std::move(ends.second);
    witness_ = std::make_shared<Witness>(Limits{}, /*parse=*/false, /*record=*/true);
    server_->connection = accepted_.get();
    accepted_->Start(server_);
    client_->Start(witness_);
    client_->SetBackground(true);
  }
  ~Bystander() {
    client_->Close(absl::OkStatus());
    MI7_CHECK(witness_->AwaitClosed(), "the bystander ends");
    accepted_->Close(absl::OkStatus());
    server_->closed.WaitForNotification();
  }
  void RoundTrip() {
    auto ping = client_->Reserve(0);
    MI7_CHECK(ping.ok(), "the bystander's connection is open");
    (*ping)->header.type = FrameType::kPing;
    (*ping)->has_body = false;
    MI7_CHECK(client_->Send(*std::move(ping)).ok(), "the bystander's connection is open");
    MI7_CHECK(witness_->Next().kind == Witness::Event::kMessage, "the bystander is answered");
  }

 private:
  struct Echo final : transport::Receiver {
    void OnMessage(transport::IncomingMessage&&) override {
      auto pong = connection->Reserve(0);
      MI7_CHECK(pong.ok(), "the bystander's connection is open");
      (*pong)->header.type = FrameType::kPong;
      (*pong)->has_body = false;
      MI7_CHECK(connection->Send(*std::move(pong)).ok(), "the bystander's connection is open");
    }
    void OnRejected(const transport::FrameHeader&, const absl::Status&) override {}
    void OnWritable() override {}
    void OnUnsent(const transport::FrameHeader&, const absl::Status&) override {}
    void OnClosed(const absl::Status&) override { closed.Notify(); }
    transport::Connection* connection = nullptr;
    absl::Notification closed;
  };

  std::shared_ptr<transport::Connection> client_;
  std::shared_ptr<transport::Connection> accepted_;
  std::shared_ptr<Witness> witness_;
  std::shared_ptr<Echo> server_;
};

struct Totals {
  uint64_t mutations = 0;  // words written while the connection was not known to be closed
  uint64_t holes = 0;      // pages given back meanwhile
  uint64_t records = 0;
  uint64_t messages = 0;
  uint64_t rejected = 0;
  uint64_t rounds = 0;
  uint64_t ended = 0;  // by the tested side, because the protocol was broken
};

// Writes words until the connection ends, `most` are written, or the round is over.
uint64_t Scribble(HostilePeer& peer, Attack attack, uint64_t seed, uint64_t most,
                  const std::atomic<bool>& over, uint64_t& holes) {
  Random random(seed);
  const auto control = peer.control_words();
  const auto geometry = control.first(16);
  const auto progress = control.subspan(16, 48);
  const auto ring = control.subspan(64);
  uint64_t written = 0;
  const auto scribble = [&](std::span<uint64_t> words, int count) {
    for (int i = 0; i < count; ++i) {
      uint64_t& word = words[random.Below(words.size())];
      Store(word, Mutated(__atomic_load_n(&word, __ATOMIC_RELAXED), random));
    }
    written += static_cast<uint64_t>(count);
  };
  // Where segment tables lie.
  const auto scribble_starts = [&](int count) {
    for (int i = 0; i < count; ++i) {
      const size_t size_class = random.Below(2);
      uint64_t* const slot = peer.slot(size_class, random.Below(HostilePeer::kSlots[size_class]));
      uint64_t& word = slot[random.Below(2)];
      const uint64_t was = __atomic_load_n(&word, __ATOMIC_RELAXED);
      // Mostly one segment, of many sizes.
      Store(word, random.Below(4) == 0 ? Mutated(was, random) : random.Below(600) << 32);
    }
    written += static_cast<uint64_t>(count);
  };
  while (written < most && !over.load(std::memory_order_relaxed) && !peer.witness().closed()) {
    switch (attack) {
      case kPayload:
        scribble(peer.chunk_words(0), 192);
        scribble(peer.chunk_words(1), 32);
        scribble_starts(32);
        if (random.Below(32) == 0) holes += peer.GiveBackPage(random());
        break;
      case kTables: {
        auto* const table = reinterpret_cast<uint32_t*>(peer.slot(0, 0));
        for (int i = 0; i < 128; ++i) {
          uint32_t& entry = table[random.Below(kTableSegments + 1)];
          const uint32_t was = __atomic_load_n(&entry, __ATOMIC_RELAXED);
          __atomic_store_n(&entry, static_cast<uint32_t>(random()), __ATOMIC_RELAXED);
          __atomic_store_n(&entry, was, __ATOMIC_RELAXED);
        }
        written += 256;
        break;
      }
      case kProgress:
        scribble(progress, 240);
        scribble(geometry, 16);
        break;
      case kRecords:
        // A few words, then a moment in which sound records come through.
        scribble(ring, static_cast<int>(random.Below(3)));
        scribble(peer.chunk_words(0), 128);
        break;
      case kSocket:
        scribble(peer.chunk_words(0), 256);
        break;
      default:
        scribble(control, static_cast<int>(random.Below(8)));
        scribble(progress, 32);
        scribble(peer.chunk_words(0), 128);
        if (random.Below(32) == 0) holes += peer.GiveBackPage(random());
        break;
    }
  }
  return written;
}

void SendGarbage(HostilePeer& peer, Random& random) {
  std::vector<uint8_t> bytes(1 + random.Below(80));
  switch (random.Below(8)) {
    case 0:
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
      peer.SendBytes(bytes);
      break;
    case 1:
      peer.SendByte(static_cast<uint8_t>(0x10 + random.Below(7)));
      break;
    case 2:
      peer.SendByte(static_cast<uint8_t>(0x10 + random.Below(7)), {peer.socket()});
      break;
    case 3:
      peer.SendByte(0x10, {peer.chunk_descriptor(0), peer.chunk_descriptor(1)});
      break;
    case 4:
      peer.SendChunk(random.Below(2));
      break;
    default:
      peer.SendBytes(bytes);  // wakeups
      break;
  }
}

// One connection, attacked until it ends or the round is over.
void Round(EventLoop* loop, uint64_t seed, Totals& totals) {
  Random random(seed);
  // Tables more often than the others, and mostly of a trusted peer: their moment is the shortest.
  const uint64_t dice = random.Below(kAttacks + 2);
  const auto attack = dice < kAttacks ? static_cast<Attack>(dice) : kTables;
  PeerOptions options;
  options.trusted = attack == kTables ? random.Below(4) != 0 : random.Below(3) == 0;
  options.accepted = random.Below(2) == 0;
  // In place only where nothing promises that what is read stays as it is: its words are touched.
  options.parse = !options.trusted;
  options.record = false;
  options.wait = random.Below(2) == 0 ? WaitPolicy::kAdaptive : WaitPolicy::kBlock;
  options.limits.segments_max = 8;
  options.limits.message_bytes_max = 1u << 20;
  options.limits.traversal_words_extra = 1024;
  HostilePeer peer(loop, options);
  FillChunks(peer, random);
  WriteTable(peer);
  const bool announced = attack == kTables || random.Below(4) != 0;
  if (announced) {
    for (size_t i = 0; i < 2; ++i) peer.SendChunk(i);
  }
  // What the peer must survive and what not; see Attack.
  const bool survives = attack == kPayload || attack == kTables || attack == kProgress;

  std::atomic<bool> over{false};
  uint64_t written = 0;
  uint64_t holes = 0;
  const uint64_t most = survives ? 600'000 : 150'000;
  std::atomic<bool> scribbled{false};
  std::thread writer([&] {
    written = Scribble(peer, attack, seed + 1, most, over, holes);
    scribbled.store(true);
  });
  std::thread driver([&] {
    if (options.accepted) return;
    // Threads that wait read the ring too.
    while (!over.load() && !peer.witness().closed()) {
      peer.connection()->Await(peer.witness().completion(), Deadline::After(absl::Milliseconds(2)));
    }
  });

  uint64_t records = 0;
  while (!scribbled.load() && !peer.witness().closed()) {
    if (attack == kTables) {
      if (peer.Put(TableRecord())) {
        ++records;
      } else {
        std::this_thread::yield();
      }
    } else if (!announced && records < 20) {
      // Only what needs no memory.
      if (peer.Put(CallRecord(Form::kInline, 48, {0}))) ++records;
    } else if (!announced && (survives || random.Below(2) == 0)) {
      if (records == 20) {
        for (size_t i = 0; i < 2; ++i) peer.SendChunk(i);
      }
      if (peer.Put(SoundRecord(peer, random, attack != kPayload))) ++records;
    } else if (peer.Put(SoundRecord(peer, random, attack != kPayload))) {
      ++records;
    } else {
      std::this_thread::yield();
    }
    if (random.Below(8) == 0) peer.Ring();
    if (random.Below(16) == 0) {
      // The tested side sends too: its slots and its ring meet what is scribbled on its progress.
      auto message = peer.connection()->Reserve(random.Below(6000));
      if (message.ok()) {
        (*message)->header.type = FrameType::kReturn;
        (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(
            static_cast<capnp::uint>(random.Below(9000)));
        static_cast<void>(peer.connection()->Send(*std::move(message)).ok());
      }
    }
    if ((attack == kSocket || attack == kEverything) && random.Below(64) == 0) {
      SendGarbage(peer, random);
    }
  }
  // Before it is told to end, it must not have ended for what it has to survive.
  const bool ended = peer.witness().closed();
  over.store(true);
  writer.join();
  driver.join();
  if (random.Below(2) == 0) peer.HangUp();
  peer.connection()->Close(absl::OkStatus());
  ASSERT_TRUE(peer.witness().AwaitClosed()) << "hangs; seed " << seed;
  const absl::Status why = peer.witness().why();
  if (ended) {
    EXPECT_FALSE(survives) << "attack " << attack << ", seed " << seed << ": " << why;
    // A scribbled record may be a sound Close, whose code and text are up to the peer.
    EXPECT_TRUE(absl::IsInvalidArgument(why) || absl::StartsWith(why.message(), "peer closed: "))
        << "attack " << attack << ", seed " << seed << ": " << why;
  }
  totals.mutations += written;
  totals.holes += holes;
  totals.records += records;
  totals.messages += peer.witness().messages();
  totals.rejected += peer.witness().rejected();
  totals.rounds += 1;
  totals.ended += ended;
}

TEST(RacingWriter, CanDoNothingButEndItsConnection) {
  auto created = EventLoop::Create({});
  ASSERT_TRUE(created.ok());
  EventLoop* const loop = created->get();
  Fence(loop);
  const uint64_t wanted = WantedMutations();
  const char* const given = std::getenv("MI7_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("MI7_SEED=%llu\n", static_cast<unsigned long long>(seed));
  const size_t descriptors = OpenDescriptors();
  const size_t mappings = GuardedMappings();
  Totals totals;
  {
    Bystander bystander(loop);
    while (totals.mutations < wanted && !::testing::Test::HasFailure()) {
      Round(loop, seed + totals.rounds * 2, totals);
      bystander.RoundTrip();
    }
  }
  Fence(loop);
  EXPECT_EQ(OpenDescriptors(), descriptors);
  EXPECT_EQ(GuardedMappings(), mappings);
  const auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
  std::printf(
      "RELIABILITY: %llu words written by a hostile peer in %llu rounds, %llu pages given back; "
      "%llu records, of which %llu became messages and %llu were rejected; %llu connections were "
      "ended\n",
      number(totals.mutations), number(totals.rounds), number(totals.holes), number(totals.records),
      number(totals.messages), number(totals.rejected), number(totals.ended));
  if (wanted >= 1'000'000) {
    // The attacks got somewhere.
    EXPECT_GT(totals.messages, totals.records / 10);
    EXPECT_GT(totals.rejected, 0u);
    EXPECT_GT(totals.ended, 0u);
    EXPECT_GT(totals.holes, 0u);
  }
}

}  // namespace
}  // namespace mi7::shm_hostile
