// Streams on servers that limit what they take on, and on connections whose peer falls silent.

#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "rpc/call_outcome.h"
#include "tests/conformance/call/stream_conformance.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

using testing::HasSubstr;

// Sends an item through `chat` and gets it back.
testing::AssertionResult Echoes(BidiStream<Item, Item>& chat) {
  const absl::Status sent = chat.writer().Write(NewItem(chat.writer(), 7, 100)).Wait();
  if (!sent.ok()) return testing::AssertionFailure() << sent;
  const ItemRead item = chat.reader().Read().Wait();
  if (!item.ok()) return testing::AssertionFailure() << item.status();
  if (!*item || !IsItem(**item, 7, 100)) return testing::AssertionFailure() << "another item";
  return testing::AssertionSuccess();
}

TEST_P(StreamTest, StreamHasItsShareOfTheServerUntilItsHandlerHasEnded) {
  ServerOptions server;
  server.load.calls_max = 1;
  Start(server, ChannelOptions());
  const auto refused = [this] {
    auto chat = stub().Chat({.deadline = Deadline::After(kSoon)});
    const ItemRead read = chat.reader().Read().Wait();
    EXPECT_THAT(read, StatusIs(absl::StatusCode::kResourceExhausted,
                               HasSubstr("server is overloaded: load.calls_max is 1")));
    EXPECT_THAT(read.status(), OutcomeIs(CallOutcome::kRefused));
  };
  const auto comes_to_nothing = [this] {
    const Deadline patience = Deadline::After(kSoon);
    while (server_->load().calls != 0) {
      if (patience.passed()) return testing::AssertionFailure() << server_->load().calls;
      std::this_thread::yield();
    }
    return server_->load().bytes == 0 ? testing::AssertionSuccess()
                                      : testing::AssertionFailure() << server_->load().bytes;
  };
  {
    // Ended in order.
    auto chat = stub().Chat({.deadline = Deadline::After(kSoon)});
    ASSERT_TRUE(Echoes(chat));
    EXPECT_GT(server_->load().bytes, Limits().stream_window_bytes) << "what its window may hold";
    refused();
    chat.writer().Close();
    const ItemRead end = chat.reader().Read().Wait();
    ASSERT_THAT(end, IsOk());
    EXPECT_FALSE(*end);
    EXPECT_EQ(server_->load().calls, 0u) << "given back before the end was told";
  }
  {
    // Dropped by the caller.
    std::optional<BidiStream<Item, Item>> chat = stub().Chat();
    ASSERT_TRUE(Echoes(*chat));
    chat.reset();
    EXPECT_TRUE(comes_to_nothing());
  }
  {
    // Its connection is lost.
    auto chat = stub().Chat();
    ASSERT_TRUE(Echoes(chat));
    channel_->Close();
    EXPECT_TRUE(comes_to_nothing());
    channel_ = NewChannel();
  }
  EXPECT_TRUE(Answers());
}

TEST_P(StreamTest, SilentPeerOfAnIdleStreamIsNoticedAtBothEnds) {
  const Keepalive quick = {.interval = absl::Milliseconds(100),
                           .timeout = absl::Milliseconds(400),
                           .on_this_machine = true};
  for (const bool at_server : {false, true}) {
    SCOPED_TRACE(at_server ? "the server looks" : "the client looks");
    auto script = std::make_shared<FaultScript>();
    ServerOptions server;
    ChannelOptions channel;
    (at_server ? server.keepalive : channel.keepalive) = quick;
    (at_server ? channel.keepalive : server.keepalive).interval = absl::InfiniteDuration();
    (at_server ? server.decorator : channel.decorator) = script;
    Start(server, channel);
    auto chat = stub().Chat();
    ASSERT_TRUE(Echoes(chat));
    script->Add({.count = FaultRule::kAll});
    const ItemRead read = chat.reader().Read().Wait();
    EXPECT_THAT(read, StatusIs(absl::StatusCode::kUnavailable));
    EXPECT_THAT(read.status(), OutcomeIs(CallOutcome::kUnknown));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

// Nothing is said on the stream for longer than every time that is kept.
TEST_P(StreamTest, IdleStreamSurvivesKeepaliveAndIdleTimeouts) {
  auto script = std::make_shared<FaultScript>();
  script->Add({.frames = FaultFrames::kPings,
               .action = FaultAction::kDelay,
               .count = FaultRule::kAll});  // to count them
  const Keepalive often = {
      .interval = absl::Milliseconds(8), .timeout = kSoon, .on_this_machine = true};
  ServerOptions server;
  ChannelOptions channel;
  server.keepalive = channel.keepalive = often;
  server.idle_timeout = channel.idle_timeout = absl::Milliseconds(8);
  channel.decorator = script;
  Start(server, channel);
  auto chat = stub().Chat();
  ASSERT_TRUE(Echoes(chat));
  const Deadline patience = Deadline::After(kSoon);
  while (script->hits() < 20) {
    ASSERT_FALSE(patience.passed()) << script->hits();
    std::this_thread::yield();
  }
  EXPECT_TRUE(Echoes(chat));
}

// Streams that begin at the very moment at which the connection is closed for being idle, by one
// end or by both. None fails.
TEST_P(StreamTest, StreamsThatRaceWithAnIdleCloseDoNotFail) {
  constexpr absl::Duration kIdle = absl::Milliseconds(1);
  for (const bool server_closes : {false, true}) {
    for (const bool client_closes : {false, true}) {
      if (!server_closes && !client_closes) continue;
      SCOPED_TRACE(testing::Message() << server_closes << client_closes);
      ServerOptions server;
      ChannelOptions channel;
      // Its times and so short a one are not kept together.
      server.keepalive.interval = channel.keepalive.interval = absl::InfiniteDuration();
      if (server_closes) server.idle_timeout = kIdle;
      if (client_closes) channel.idle_timeout = kIdle;
      Start(server, channel);
      ASSERT_TRUE(Answers());
      const uint64_t before = server_->statistics().connections_accepted;
      for (int i = 0; i < 150; ++i) {
        // From well before to well after the time.
        const Deadline pause = Deadline::After(absl::Microseconds(i * 20));
        while (!pause.passed()) std::this_thread::yield();
        auto chat = stub().Chat({.deadline = Deadline::After(kSoon)});
        ASSERT_TRUE(Echoes(chat)) << i;
        chat.writer().Close();
        const ItemRead end = chat.reader().Read().Wait();
        ASSERT_THAT(end, IsOk()) << i;
        ASSERT_FALSE(*end) << i;
      }
      // One more may be of the first connection: over mi7:// a client has two to choose from.
      EXPECT_GT(server_->statistics().connections_accepted, before + 1) << "none was closed";
      channel_ = nullptr;
      server_ = nullptr;
    }
  }
}

}  // namespace
}  // namespace mi7::conformance
