// fork(): what is the parent's is refused in a child, on every transport; what the child makes
// works; and a child keeps nothing of its parent's alive.

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "rpc/call_outcome.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/feed_service.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/event_loop.h"
#include "transport/local/testing.h"

namespace mi7 {
namespace {

using conformance::EchoResult;
using conformance::kSoon;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::HasSubstr;

// A child that hangs is a failure, not a test that never ends.
constexpr unsigned kChildSeconds = 60;

// Runs `body` in a child. Whether it came to its end without a failed expectation.
bool HoldsInChild(const std::function<void()>& body) {
  std::fflush(nullptr);
  const pid_t child = transport::testing::Fork([&body] {
    ::alarm(kChildSeconds);
    body();
    std::fflush(nullptr);
    return testing::Test::HasFailure() ? 1 : 0;
  });
  return transport::testing::WaitFor(child) == 0;
}

EchoResult Echo(const std::shared_ptr<Channel>& channel) {
  auto request = ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)});
  request->setText("text");
  request->initData(3000);
  return request.Send().Wait();
}

// Sockets, the runtime directory's too.
const std::string& Sockets() {
  static const transport::testing::TemporaryDirectory directory;
  static const int set = ::setenv("MI7_RUNTIME_DIR", directory.path().c_str(), 1);
  static_cast<void>(set);
  return directory.path();
}

struct Transport {
  const char* name;
  std::function<std::string()> endpoint;  // to listen on, a new one each time but for inproc
};

std::string NewPath(const char* scheme) {
  static std::atomic<int> count{0};
  return absl::StrCat(scheme, ":", Sockets(), "/", ++count);
}

class ForkTest : public testing::TestWithParam<Transport> {
 protected:
  std::unique_ptr<Server> Serve(ProbeImpl& probe, const std::string& endpoint) {
    auto server = ServerBuilder().AddService(&probe).Listen(endpoint).Start();
    EXPECT_THAT(server, IsOk());
    return server.ok() ? *std::move(server) : nullptr;
  }
  void SetUp() override {
    server_ = Serve(probe_, GetParam().endpoint());
    ASSERT_NE(server_, nullptr);
    endpoint_ = server_->endpoints()[0];
    channel_ = *Channel::Create(endpoint_);
  }
  // Connects; before the fork, where a child may not ask any more.
  void Use() {
    ASSERT_THAT(Echo(channel_), IsOk());
    transport_ = channel_->transport();
  }
  bool within_the_process() const { return GetParam().name == std::string("inproc"); }

  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::string endpoint_;
  std::shared_ptr<Channel> channel_;
  std::string transport_;
};

TEST_P(ForkTest, WhatIsTheParentsIsRefusedInAChildAndTheParentGoesOn) {
  ASSERT_THAT(Echo(channel_), IsOk());
  auto in_flight = ProbeStub(channel_).Hold().Send();
  ASSERT_TRUE(probe_.AwaitHeld(1));
  auto dropped = ProbeStub(channel_).Hold({.deadline = Deadline::After(kSoon)}).Send();
  auto built = ProbeStub(channel_).Name();
  EXPECT_TRUE(HoldsInChild([&] {
    const auto refused =
        StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("before fork()"));
    const EchoResult called = Echo(channel_);
    EXPECT_THAT(called, refused);
    EXPECT_THAT(called, OutcomeIs(CallOutcome::kNotSent));
    std::optional<absl::Status> by_callback;
    ProbeStub(channel_).Hold().Send().Then([&](auto result) { by_callback = result.status(); });
    ASSERT_TRUE(by_callback);
    EXPECT_THAT(*by_callback, refused);
    const auto sent_before = in_flight.Wait();
    EXPECT_THAT(sent_before, refused);
    EXPECT_THAT(sent_before, OutcomeIs(CallOutcome::kUnknown));
    const auto built_before = built.Send().Wait();
    EXPECT_THAT(built_before, refused);
    EXPECT_THAT(built_before, OutcomeIs(CallOutcome::kNotSent));
    dropped.Cancel();
    EXPECT_THAT(channel_->Connect(Deadline::After(kSoon)), refused);
    EXPECT_EQ(channel_->state(), ChannelState::kClosed);
    EXPECT_EQ(channel_->transport(), "");
    EXPECT_THAT(channel_->Describe(), HasSubstr("before fork()"));
    channel_->Close();
    channel_ = nullptr;
    EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), refused);
    EXPECT_EQ(server_->connection_count(), 0u);
    server_ = nullptr;
  }));
  EXPECT_THAT(Echo(channel_), IsOk());
  probe_.TakeHeld().Answer();
  EXPECT_THAT(in_flight.Wait(), IsOk());
  probe_.TakeHeld().Answer();
  EXPECT_THAT(dropped.Wait(), IsOk()) << "the child's cancellation is not the parent's";
  EXPECT_THAT(built.Send().Wait(), IsOk());
  // The same one all the time. Over mi7:// the one that was not chosen takes a moment to end.
  const Deadline soon = Deadline::After(kSoon);
  while (server_->connection_count() != 1 && !soon.passed()) std::this_thread::yield();
  EXPECT_EQ(server_->connection_count(), 1u);
}

TEST_P(ForkTest, StreamsOfTheParentsEndInAChild) {
  channel_ = nullptr;
  server_ = nullptr;  // whose name may be free again for the next one
  conformance::FeedImpl feed;
  // Nothing is sent, and nothing ends.
  feed.on_watch = [](ServerContext& context, conformance::Feed::WatchParams::Reader,
                     StreamWriter<conformance::Item>) -> Reply {
    static_cast<void>(new DeferredCall(context.Defer()));
    return Reply::Later();
  };
  feed.on_pour = [](ServerContext& context, conformance::Item::Reader) -> Reply {
    static_cast<void>(new DeferredCall(context.Defer()));
    return Reply::Later();
  };
  const auto server = *ServerBuilder().AddService(&feed).Listen(GetParam().endpoint()).Start();
  const auto channel = *Channel::Create(server->endpoints()[0]);
  conformance::FeedStub stub(channel);
  ASSERT_THAT(stub.Ask().Send().Wait(), IsOk());
  auto reader = stub.Watch().Send();
  auto poured = stub.Pour().Send();
  auto poured_more = stub.Pour().Send();
  EXPECT_TRUE(HoldsInChild([&] {
    const auto refused =
        StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("before fork()"));
    std::optional<absl::Status> by_callback;
    reader.Read().Then([&](auto item) { by_callback = item.status(); });
    ASSERT_TRUE(by_callback);
    EXPECT_THAT(*by_callback, refused);
    EXPECT_THAT(stub.FinishStream().Wait(), refused);
    std::optional<absl::Status> finished;
    stub.FinishStream().Then([&](absl::Status status) { finished = status; });
    EXPECT_TRUE(finished);
    EXPECT_THAT(stub.Pour().Send().Wait(), refused);
  }));
  reader.Cancel();
  EXPECT_THAT(reader.Read().Wait().status(), StatusIs(absl::StatusCode::kCancelled));
}

TEST_P(ForkTest, AChannelThatWasNeverUsedIsRefusedInAChildToo) {
  EXPECT_TRUE(HoldsInChild([&] {
    EXPECT_THAT(Echo(channel_),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("before fork()")));
  }));
  EXPECT_THAT(Echo(channel_), IsOk());
}

TEST_P(ForkTest, ChannelsThatAChildMakesWorkAndSoDoItsChildrens) {
  Use();
  const auto call = [&] {
    const auto channel = *Channel::Create(endpoint_);
    if (within_the_process()) {
      EXPECT_THAT(Echo(channel), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("nobody")));
      return;
    }
    for (int i = 0; i < 100; ++i) EXPECT_THAT(Echo(channel), IsOk());
    EXPECT_EQ(channel->transport(), transport_);
  };
  EXPECT_TRUE(HoldsInChild([&] {
    call();
    EXPECT_TRUE(HoldsInChild(call)) << "the child's child";
    call();
  }));
  EXPECT_THAT(Echo(channel_), IsOk());
}

TEST_P(ForkTest, AChildServesAndCallsItself) {
  ASSERT_THAT(Echo(channel_), IsOk());
  EXPECT_TRUE(HoldsInChild([&] {
    ProbeImpl probe;
    const auto server = Serve(probe, GetParam().endpoint());
    const auto channel = *Channel::Create(server->endpoints()[0]);
    EXPECT_THAT(Echo(channel), IsOk());
    EXPECT_THAT(server->Shutdown(Deadline::After(kSoon)), IsOk());
  }));
  EXPECT_THAT(Echo(channel_), IsOk());
}

TEST_P(ForkTest, AParentThatIsBusyOnManyThreadsHasChildrenThatWork) {
  std::atomic<bool> stop{false};
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, own = *Channel::Create(endpoint_)] {
      while (!stop.load()) {
        if (!Echo(channel_).ok() || !Echo(own).ok()) failed.fetch_add(1);
      }
    });
  }
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(HoldsInChild([&] {
      EXPECT_THAT(Echo(channel_), StatusIs(absl::StatusCode::kFailedPrecondition));
      if (within_the_process()) return;
      const auto channel = *Channel::Create(endpoint_);
      EXPECT_THAT(Echo(channel), IsOk());
    }));
  }
  stop.store(true);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed.load(), 0);
}

TEST_P(ForkTest, AChildDoesNotKeepTheServerOfItsParentAlive) {
  if (within_the_process()) return;  // nothing of it is seen outside
  struct Told {
    pid_t child;
    std::array<char, 200> endpoint;
  };
  std::array<int, 2> pipe;
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const pid_t parent = transport::testing::Fork([&] {
    ProbeImpl probe;
    const auto server = Serve(probe, GetParam().endpoint());
    Told told{};
    // Says that it is there: only then has it closed what is its parent's.
    std::array<int, 2> there;
    if (::pipe(there.data()) != 0) return 1;
    told.child = transport::testing::Fork([&] {
      ::alarm(kChildSeconds);
      if (::write(there[1], "", 1) != 1) return 1;
      return ::pause();
    });
    char byte;
    if (::read(there[0], &byte, 1) != 1) return 1;
    server->endpoints()[0].copy(told.endpoint.data(), told.endpoint.size() - 1);
    if (::write(pipe[1], &told, sizeof(told)) != sizeof(told)) return 1;
    ::alarm(kChildSeconds);
    return ::pause();
  });
  Told told{};
  ASSERT_EQ(::read(pipe[0], &told, sizeof(told)), ssize_t{sizeof(told)});
  const auto channel = *Channel::Create(told.endpoint.data());
  ASSERT_THAT(Echo(channel), IsOk());
  auto in_flight = ProbeStub(channel).Hold({.deadline = Deadline::After(kSoon)}).Send();
  ::kill(parent, SIGKILL);
  EXPECT_THAT(in_flight.Wait(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(transport::testing::WaitFor(parent), 128 + SIGKILL);
  EXPECT_EQ(::kill(told.child, 0), 0) << "the child lives";
  const auto successor = Serve(probe_, told.endpoint.data());
  ASSERT_NE(successor, nullptr) << "its endpoint is free";
  EXPECT_THAT(Echo(*Channel::Create(told.endpoint.data())), IsOk());
  ::kill(told.child, SIGKILL);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_P(ForkTest, AnEventLoopOfTheParentIsRefused) {
  const auto loop = *transport::EventLoop::Create({.name = "parent"});
  EXPECT_TRUE(HoldsInChild([&] {
    EXPECT_TRUE(loop->forked());
    ChannelOptions options;
    options.event_loop = loop.get();
    EXPECT_THAT(Channel::Create(endpoint_, options),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("event_loop")));
  }));
}

INSTANTIATE_TEST_SUITE_P(
    All, ForkTest,
    testing::Values(Transport{"shm", [] { return NewPath("shm"); }},
                    Transport{"unix", [] { return NewPath("unix"); }},
                    Transport{"tcp", [] { return std::string("tcp:127.0.0.1:0"); }},
                    Transport{"mi7", [] { return Sockets(), std::string("mi7://127.0.0.1:0"); }},
                    Transport{"inproc", [] { return std::string("inproc:fork"); }}),
    [](const auto& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace mi7
