// Threads that wait inside callbacks and handlers: what they may wait for, and what they must not
// hold up.

#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/conformance/call/call_conformance.h"
#include "transport/unique_fd.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

// The event loop that would have to read the answer is the thread that waits for it.
TEST_P(CallTest, WaitInACallbackForAnotherChannelOfTheSameLoopIsRefused) {
  Start();
  const std::shared_ptr<Channel> other = NewChannel();  // on the process's shared loop, as channel_
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  ASSERT_THAT(other->Connect(Deadline::After(kSoon)), IsOk());
  absl::Notification done;
  absl::Status nested;
  SendHold(1).Then([&](auto) {
    auto request = ProbeStub(other).Echo({.deadline = Deadline::After(kSoon)});
    request->setText("inner");
    nested = request.Send().Wait().status();
    done.Notify();
  });
  probe_.TakeHeld().Answer();
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(nested, StatusIs(absl::StatusCode::kFailedPrecondition,
                               AllOf(StartsWith("Probe.echo: Wait() inside a callback of the event "
                                                "loop that serves the channel"),
                                     HasSubstr("use Then() or co_await"))));
  // Both channels work as before.
  EXPECT_TRUE(Works());
  EXPECT_THAT(ProbeStub(other).Echo().Send().Wait(), IsOk());
}

TEST_P(CallTest, WaitInACallbackForAChannelOfAnotherLoopIsAllowed) {
  Start();
  ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
  const auto loop = *transport::EventLoop::Create({.name = "other"});
  ChannelOptions options;
  options.event_loop = loop.get();
  std::shared_ptr<Channel> other = NewChannel(options);
  absl::Notification done;
  absl::Status nested;
  SendHold(1).Then([&](auto) {
    nested = ProbeStub(other).Echo().Send().Wait().status();
    done.Notify();
  });
  probe_.TakeHeld().Answer();
  ASSERT_TRUE(Happens(done));
  EXPECT_THAT(nested, IsOk());
  other = nullptr;
}

// Answers inside a callback are held back until the callback's burst is over. A handler that waits
// for another channel takes as long as that takes: what ends meanwhile on its thread is sent.
TEST_P(CallTest, AnswersOfOtherHandlersLeaveWhileAHandlerWaits) {
  Start();
  const ProbeStub backend = stub();
  ProbeImpl front_probe;
  front_probe.on_echo = [backend](ServerContext&, Probe::EchoParams::Reader params,
                                  Probe::EchoResults::Builder results) -> Reply {
    auto request = backend.Hold();
    if (params.getText() == "coroutine") {
      return [](Request<Probe::HoldParams, Probe::HoldResults> asked,
                Probe::EchoResults::Builder answer) -> Reply {
        const auto held = co_await asked.Send();
        answer.setText("of the coroutine");
        co_return held.status();
      }(std::move(request), results);
    }
    results.setText("of the thread");
    return request.Send().Wait().status();
  };
  // One loop: both handlers begin on its thread.
  ServerOptions options;
  options.event_loops = 1;
  options.wait = GetParam().wait;
  const auto front = *ServerBuilder()
                          .SetOptions(options)
                          .AddService(&front_probe)
                          .Listen(GetParam().new_endpoint())
                          .Start();
  ASSERT_TRUE(Works());  // the backend's channel is connected, so that a waiting thread drives it
  endpoint_ = front->endpoints()[0];
  const std::shared_ptr<Channel> to_front = NewChannel();
  const auto send = [&to_front](const char* text) {
    auto request = ProbeStub(to_front).Echo({.deadline = Deadline::After(kSoon)});
    request->setText(text);
    return request.Send();
  };
  auto by_coroutine = send("coroutine");
  ASSERT_TRUE(probe_.AwaitHeld(1));
  auto by_thread = send("thread");
  ASSERT_TRUE(probe_.AwaitHeld(2));
  probe_.TakeHeld().Answer();
  // The thread's handler waits still.
  const EchoResult first = by_coroutine.Wait();
  probe_.TakeHeld().Answer();
  ASSERT_THAT(first, IsOk()) << "its answer was held back for as long as the other handler waited";
  EXPECT_EQ(first->getText(), "of the coroutine");
  const EchoResult second = by_thread.Wait();
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(second->getText(), "of the thread");
}

// A port where connections are taken, and nothing is said.
class SilentServer {
 public:
  SilentServer() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(socket_.get(), any, size), 0);
    EXPECT_EQ(::listen(socket_.get(), 8), 0);
    EXPECT_EQ(::getsockname(socket_.get(), any, &size), 0);
    endpoint_ = absl::StrCat("tcp:127.0.0.1:", ntohs(address.sin_port));
  }
  const std::string& endpoint() const { return endpoint_; }

 private:
  const transport::UniqueFd socket_;
  std::string endpoint_;
};

TEST_P(CallTest, AnswersOfOtherHandlersLeaveWhileAHandlerWaitsForAConnection) {
  const SilentServer silent;
  std::shared_ptr<Channel> nowhere;
  std::atomic<bool> connects{true};
  std::atomic<bool> waits{false};
  probe_.on_echo = [&](ServerContext&, Probe::EchoParams::Reader,
                       Probe::EchoResults::Builder) -> Reply {
    waits = true;
    probe_.TakeHeld().Answer();
    const absl::Status ended = connects ? nowhere->Connect(Deadline::Infinite())
                                        : ProbeStub(nowhere).Echo().Send().Wait().status();
    waits = false;
    EXPECT_FALSE(ended.ok());
    return absl::OkStatus();
  };
  const Ends ends(this);
  Start();
  for (const bool by_connect : {true, false}) {
    SCOPED_TRACE(by_connect);
    connects = by_connect;
    nowhere = *Channel::Create(silent.endpoint());
    // With deadlines, so that no wait of ours runs the handler.
    auto held = SendHold(1, {.deadline = Deadline::After(kSoon)});
    ASSERT_TRUE(probe_.AwaitHeld(1));
    auto echo = SendEcho("", {.deadline = Deadline::After(kSoon)});
    const auto answer = held.Wait();
    EXPECT_THAT(answer, IsOk());
    EXPECT_TRUE(waits) << "its answer was held back for as long as the handler waited";
    nowhere->Close();
    EXPECT_THAT(echo.Wait(), IsOk());
  }
}

}  // namespace
}  // namespace mi7::conformance
