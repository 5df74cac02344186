// What is special about a shared-memory connection: what it does when memory is short, and whom it
// trusts. What it shares with others is in the conformance suite.

#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "transport/completion.h"
#include "transport/copy_counter.h"
#include "transport/shm/connection_testing.h"
#include "transport/shm/shm_connection.h"
#include "transport/shm/testing.h"
#include "transport/stream/testing.h"
#include "transport/wait_policy.h"

namespace mi7::transport::shm {
namespace {

using ::testing::HasSubstr;
using transport::testing::BodyOf;
using transport::testing::MakeMessage;
using transport::testing::NewLoop;
using transport::testing::Recorder;

// No descriptor can be opened while it lives.
class NoDescriptors {
 public:
  NoDescriptors() {
    MI7_CHECK(::getrlimit(RLIMIT_NOFILE, &before_) == 0, "getrlimit");
    rlimit low = before_;
    low.rlim_cur = 3;  // what is open stays
    MI7_CHECK(::setrlimit(RLIMIT_NOFILE, &low) == 0, "setrlimit");
  }
  ~NoDescriptors() { MI7_CHECK(::setrlimit(RLIMIT_NOFILE, &before_) == 0, "setrlimit"); }

 private:
  rlimit before_;
};

TEST_F(ShmConnectionTest, MessageLargerThanThePoolIsRefusedByName) {
  StartServer();
  const absl::Status sent = Send(1, kTooLarge);
  EXPECT_TRUE(absl::IsResourceExhausted(sent)) << sent;
  EXPECT_THAT(sent.message(), HasSubstr("262144 bytes can be had in one piece (shm.slot_classes)"));
  EXPECT_TRUE(Send(2, 200'000).ok());
  EXPECT_TRUE(at_server_->WaitMessages(1));
}

TEST_F(ShmConnectionTest, MessageLargerThanThePoolIsRefusedBehindAFullRingToo) {
  uint32_t sent = 0;
  while (sent < kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  const absl::Status too_large = Send(sent, kTooLarge);
  EXPECT_TRUE(absl::IsResourceExhausted(too_large)) << too_large;
  EXPECT_THAT(too_large.message(), HasSubstr("shm.slot_classes"));
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Send(sent++, 40).ok());
  StartServer();
  EXPECT_TRUE(at_server_->WaitMessages(static_cast<int>(sent)));
  EXPECT_TRUE(at_client_->unsent().empty());
}

TEST_F(ShmConnectionTest, MessageForWhichThereIsNoMemoryFailsAlone) {
  StartServer();
  {
    const NoDescriptors none;
    const absl::Status sent = Send(1, 10'000);
    EXPECT_TRUE(absl::IsResourceExhausted(sent)) << sent;
    EXPECT_THAT(sent.message(), HasSubstr("Too many open files"));
    EXPECT_TRUE(Send(2, 40).ok()) << "what rides in the ring needs no descriptor";
  }
  EXPECT_TRUE(Send(3, 10'000).ok());
  EXPECT_TRUE(at_server_->WaitMessages(2));
}

TEST_F(ShmConnectionTest, MessageForWhichThereIsNoMemoryFailsAloneBehindAFullRingToo) {
  uint32_t sent = 0;
  while (sent < kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  const uint32_t large = sent;
  ASSERT_TRUE(Send(sent++, 10'000).ok()) << "nobody knows yet";
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Send(sent++, 40).ok());
  {
    const NoDescriptors none;
    StartServer();
    EXPECT_TRUE(at_server_->WaitMessages(static_cast<int>(sent) - 1));
  }
  ASSERT_TRUE(at_client_->WaitUnsent(1));
  EXPECT_EQ(at_client_->unsent(), std::vector<uint32_t>{large});
  const absl::Status why = at_client_->unsent_why()[0];
  EXPECT_TRUE(absl::IsResourceExhausted(why)) << why;
  EXPECT_THAT(why.message(), HasSubstr("Too many open files"));
  EXPECT_TRUE(Send(sent, 10'000).ok());
  EXPECT_TRUE(at_server_->WaitMessages(static_cast<int>(sent)));
  EXPECT_FALSE(at_client_->closed());
}

// It says of calls what holds when the returns before it arrive, and one of those may be dropped.
TEST_F(ShmConnectionTest, GoAwayThatWaitsBehindOthersSaysNothingOfCalls) {
  const std::vector<std::byte> extra(16);
  const auto go_away = [&extra] {
    OutgoingMessage message = NewHeapMessage(0);
    message->header.type = FrameType::kGoAway;
    message->has_body = false;
    message->SetExtra(extra);
    return message;
  };
  std::atomic<uint32_t> said_bytes{0};
  at_server_->set_hook([&said_bytes](IncomingMessage message) {
    if (message.header().type == FrameType::kGoAway) said_bytes += message.header().extra_size;
  });
  ASSERT_TRUE(client_->Send(go_away()).ok());
  uint32_t sent = 1;
  while (sent < kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  ASSERT_TRUE(client_->Send(go_away()).ok());
  StartServer();
  EXPECT_TRUE(at_server_->WaitMessages(static_cast<int>(sent) + 1));
  EXPECT_EQ(said_bytes, extra.size()) << "the first one did";
}

TEST_F(ShmConnectionTest, PeerWithoutADescriptorForOurMemorySaysSo) {
  StartServer();
  absl::StatusOr<OutgoingMessage> message = client_->Reserve(10'000);
  ASSERT_TRUE(message.ok());
  *message = MakeMessage(FrameType::kCall, 1, 10'000);
  {
    // The chunk is there, from a message of the same class that was never sent.
    absl::StatusOr<OutgoingMessage> first = client_->Reserve(10'000);
    ASSERT_TRUE(first.ok());
    (*first)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(10'000);
  }
  {
    const NoDescriptors none;
    ASSERT_TRUE(client_->Send(*std::move(message)).ok());
    const absl::Status why = at_server_->WaitClosed();
    EXPECT_TRUE(absl::IsResourceExhausted(why)) << why;
    EXPECT_THAT(why.message(), HasSubstr("no descriptor left"));
  }
}

// Pages go back a second after the last message, those of slots that are in use then as soon after
// they come free as they were in use.
TEST_F(ShmConnectionTest, PagesOfMessagesThatWereKeptGoBackToo) {
  FakeClock clock;
  StartServer();
  at_server_->set_keep(true);
  ASSERT_TRUE(Send(1, 50'000).ok());
  ASSERT_TRUE(Send(2, 10'000).ok());
  ASSERT_TRUE(at_server_->WaitMessages(2));
  std::vector<IncomingMessage> kept = at_server_->TakeKept();
  ASSERT_EQ(kept.size(), 2u);
  const uint64_t both = CommittedSlotBytes();
  kept.pop_back();
  clock.Advance(absl::Milliseconds(1100));
  ASSERT_TRUE(Comes([both] { return CommittedSlotBytes() < both; }));
  EXPECT_GE(CommittedSlotBytes(), 50'000u) << "it is still read";
  EXPECT_EQ(BodyOf(kept[0]), std::string(50'000, 7));
  clock.Advance(absl::Seconds(3));
  kept.clear();
  clock.Advance(absl::Seconds(5));
  EXPECT_TRUE(Comes([] { return CommittedSlotBytes() == 0; })) << CommittedSlotBytes();
}

TEST_F(ShmConnectionTest, PagesOfMessagesThatWereNotSentGoBackToo) {
  FakeClock clock;
  StartServer();
  // Both of messages made in slots, and of one that was expected to be small.
  for (const size_t expected : {10'000, 8}) {
    absl::StatusOr<OutgoingMessage> message = client_->Reserve(expected);
    ASSERT_TRUE(message.ok());
    (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(10'000);
    EXPECT_GE(CommittedSlotBytes(), 10'000u);
    message->reset();
    clock.Advance(absl::Milliseconds(1100));
    ASSERT_TRUE(Comes([] { return CommittedSlotBytes() == 0; })) << CommittedSlotBytes();
  }
}

// --- Peers that do not read

// Lets the time pass that a peer is given.
void ExpectClosedAfterTheStallTimeout(FakeClock& clock, Recorder& recorder) {
  absl::Duration waited;
  ASSERT_TRUE(Comes([&] {
    if (recorder.closed()) return true;
    clock.Advance(absl::Seconds(1));
    waited += absl::Seconds(1);
    return false;
  }));
  EXPECT_GE(waited, Limits{}.write_stall_timeout - absl::Seconds(1));
  const absl::Status why = recorder.WaitClosed();
  EXPECT_TRUE(absl::IsUnavailable(why)) << why;
  EXPECT_THAT(why.message(), HasSubstr("has not read for limits.write_stall_timeout, 1m, while "));
  EXPECT_FALSE(recorder.unsent().empty());
}

TEST_F(ShmConnectionTest, PeerThatReadsNothingIsClosedAfterTheStallTimeout) {
  FakeClock clock;
  uint32_t sent = 0;
  while (sent < kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  ExpectClosedAfterTheStallTimeout(clock, *at_client_);
  StartServer();
}

TEST_F(ShmConnectionTest, PeerThatReadsNothingInTheEndIsClosedToo) {
  FakeClock clock;
  const auto reading = std::make_shared<absl::Mutex>();
  at_server_->set_hook([reading](const IncomingMessage&) { absl::MutexLock lock(&*reading); });
  uint32_t sent = 0;
  while (sent < kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  StartServer();
  ASSERT_TRUE(at_server_->WaitMessages(kMoreThanTheRing));
  for (int i = 0; i < 3; ++i) {
    clock.Advance(Limits{}.write_stall_timeout);
    LetTurn(*client_loop_);
  }
  absl::MutexLock lock(&*reading);
  while (sent < 2 * kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  ExpectClosedAfterTheStallTimeout(clock, *at_client_);
}

TEST_F(ShmConnectionTest, PeerThatReadsNothingIsClosedWhileAThreadDrives) {
  FakeClock clock;
  Completion never;
  std::atomic<bool> drives{false};
  std::thread waiter([&] {
    const auto self = std::this_thread::get_id();
    at_client_->set_hook([&drives, self](const IncomingMessage&) {
      if (std::this_thread::get_id() == self) drives = true;
    });
    client_->Await(never, Deadline::Infinite());
  });
  // It goes on driving, once it does.
  ASSERT_TRUE(Comes([&] {
    const int seen = at_client_->messages();
    EXPECT_TRUE(server_->Send(MakeMessage(FrameType::kReturn, 1, 40)).ok());
    return at_client_->WaitMessages(seen + 1) && drives;
  }));
  uint32_t sent = 0;
  while (sent < kMoreThanTheRing) ASSERT_TRUE(Send(sent++, 40).ok());
  ExpectClosedAfterTheStallTimeout(clock, *at_client_);
  never.Complete();
  waiter.join();
  StartServer();
}

// A connection that a loop polls, and what is sent inside its callbacks.
TEST_F(ShmConnectionTest, ClientThatReadsNoAnswersIsClosedWhileTheLoopPolls) {
  FakeClock clock;
  const auto server_loop = NewLoop(WaitPolicy::kSpin);
  auto [client, server] = ConnectPair(client_loop_.get(), server_loop.get(), {});
  const auto at_client = std::make_shared<Recorder>(), at_server = std::make_shared<Recorder>();
  std::atomic<uint32_t> answers{0};
  at_server->set_hook([&answers, to = server.get()](const IncomingMessage&) {
    for (uint32_t i = answers; i > 0; --i) {
      EXPECT_TRUE(to->Send(MakeMessage(FrameType::kReturn, i, 40)).ok());
    }
  });
  server->Start(at_server);
  // Behind this one it polls.
  ASSERT_TRUE(client->Send(MakeMessage(FrameType::kCall, 1, 40)).ok());
  ASSERT_TRUE(at_server->WaitMessages(1));
  answers = kMoreThanTheRing;
  ASSERT_TRUE(client->Send(MakeMessage(FrameType::kCall, 2, 40)).ok());
  ASSERT_TRUE(at_server->WaitMessages(2));
  ExpectClosedAfterTheStallTimeout(clock, *at_server);
  client->Start(at_client);
  client->Close(absl::OkStatus());
  EXPECT_FALSE(absl::IsDeadlineExceeded(at_client->WaitClosed()));
  StartServer();
}

// Slowly, but it reads: as many messages now and then as fit the ring at the most, so that each
// time further ones were written, and more than that still wait.
TEST_F(ShmConnectionTest, PeerThatReadsSlowlyIsKept) {
  FakeClock clock;
  constexpr int kPart = kRingCells;
  constexpr int kParts = 6;
  constexpr int kMessages = (kParts + 3) * kPart;
  for (uint32_t sent = 0; sent < kMessages; ++sent) ASSERT_TRUE(Send(sent, 40).ok());
  // Its loop stands still in the message behind those that it may read.
  struct Gate {
    absl::Mutex mutex;
    int read = 0;
    int may_read = 0;
    void Open(int count) {
      absl::MutexLock lock(&mutex);
      may_read = count;
    }
  };
  const auto gate = std::make_shared<Gate>();
  at_server_->set_hook([gate](const IncomingMessage&) {
    absl::MutexLock lock(&gate->mutex);
    ++gate->read;
    const auto open = [&] { return gate->read <= gate->may_read; };
    gate->mutex.Await(absl::Condition(&open));
  });
  StartServer();
  for (int part = 1; part <= kParts; ++part) {
    clock.Advance(Limits{}.write_stall_timeout * 2 / 5);
    gate->Open(part * kPart);
    EXPECT_TRUE(Comes([&] {
      return at_client_->closed() || at_server_->messages() == part * kPart + 1;
    })) << part;
  }
  EXPECT_EQ(at_server_->messages(), kParts * kPart + 1) << "the others wait";
  gate->Open(kMessages);
  ASSERT_FALSE(at_client_->closed());
  EXPECT_TRUE(at_server_->WaitMessages(kMessages));
}

// Whether what a peer does to a message after it was delivered is seen by its reader, and whether a
// peer could write to what we send.
class TrustTest : public ::testing::TestWithParam<bool> {};

TEST_P(TrustTest, PayloadsAreReadWhereTheyAreAndSlotsAreOpenOnlyIfThePeerIsTrusted) {
  const bool trusted = GetParam();
  const auto client_loop = NewLoop(), server_loop = NewLoop();
  PairOptions options;
  options.trusted = trusted;
  auto [client, server] = ConnectPair(client_loop.get(), server_loop.get(), options);
  const auto at_client = std::make_shared<Recorder>(), at_server = std::make_shared<Recorder>();
  at_server->set_keep(true);
  client->Start(at_client);
  server->Start(at_server);

  constexpr uint32_t kBytes = 1000;
  absl::StatusOr<OutgoingMessage> message = client->Reserve(kBytes);
  ASSERT_TRUE(message.ok());
  (*message)->header.type = FrameType::kCall;
  (*message)->header.target = TargetKind::kService;
  auto data = (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(kBytes);
  std::fill(data.begin(), data.end(), uint8_t{1});
  volatile uint8_t* const in_the_slot = data.begin();
  const uint64_t copied_before = copied_payload_bytes.load();
  ASSERT_TRUE(client->Send(*std::move(message)).ok());
  ASSERT_TRUE(at_server->WaitMessages(1));
  const uint64_t copied = copied_payload_bytes.load() - copied_before;
  for (uint32_t i = 0; i < kBytes; ++i) in_the_slot[i] = 2;
  const std::string seen = BodyOf(at_server->TakeKept().at(0));
  EXPECT_EQ(seen, std::string(kBytes, trusted ? 2 : 1));
  if (trusted) {
    EXPECT_EQ(copied, 0u);
  } else {
    EXPECT_GE(copied, kBytes);
  }
  int made = 0;
  ForEachSlotMemory([&made, trusted](int descriptor) {
    ++made;
    void* const slots = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    EXPECT_EQ(slots != MAP_FAILED, trusted) << "whoever has the descriptor could write";
    if (slots != MAP_FAILED) ::munmap(slots, 4096);
  });
  EXPECT_GE(made, 1);

  client->Close(absl::OkStatus());
  EXPECT_FALSE(absl::IsDeadlineExceeded(at_client->WaitClosed()));
  EXPECT_FALSE(absl::IsDeadlineExceeded(at_server->WaitClosed()));
}

INSTANTIATE_TEST_SUITE_P(All, TrustTest, ::testing::Bool(), [](const auto& of) {
  return std::string(of.param ? "trusted" : "untrusted");
});

}  // namespace
}  // namespace mi7::transport::shm
