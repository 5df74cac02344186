// A server that drains and is lost before it has refused the calls that came too late.

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/notification.h"
#include "base/mutex.h"
#include "tests/conformance/call/call_conformance.h"
#include "transport/connection_decorator.h"
#include "transport/fault/scripted_connection.h"

namespace mi7::conformance {
namespace {

using transport::fault::Fate;
using transport::fault::Way;

// Lets a server's connections be as they are until it has named the calls that it has accepted, and
// loses them with the first return that it sends then.
class LostAfterNames final : public transport::ConnectionDecorator,
                             public transport::fault::Script,
                             public std::enable_shared_from_this<LostAfterNames> {
 public:
  absl::StatusOr<std::shared_ptr<transport::Connection>> Decorate(
      std::shared_ptr<transport::Connection> inner, transport::EventLoop* loop) override {
    return transport::fault::Scripted(std::move(inner), loop, shared_from_this());
  }
  Fate FateOf(Way way, const transport::FrameHeader& header) override {
    if (way != Way::kSent) return {};
    MutexLock lock(&mutex_);
    if (header.type == transport::FrameType::kGoAway && ++go_aways_ == 2) named_.Notify();
    if (header.type != transport::FrameType::kReturn || go_aways_ < 2) return {};
    return {.kind = Fate::Kind::kLose};
  }
  // The second GoAway: it is on its way before all that the driving thread sends from now on.
  absl::Notification& named() { return named_; }

 private:
  absl::Notification named_;
  Mutex mutex_;
  int go_aways_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The call is made where its client reads nothing, so that it crosses what the server says.
TEST_P(CallTest, CallThatADrainingServerHasNotNamedGoesToItsSuccessor) {
  ProbeImpl successors_probe;
  const auto faults = std::make_shared<LostAfterNames>();
  ServerOptions options;
  options.take_over = true;
  ServerOptions dying = options;
  dying.decorator = faults;
  Start(dying);
  // Its callback runs where its answer is read, for that comes when the callback is there.
  absl::Notification reads_nothing, may_call, called;
  std::optional<PendingCall<Probe::EchoResults>> crosses;
  SendHold(0).Then([&](auto result) {
    EXPECT_THAT(result, IsOk());
    reads_nothing.Notify();
    EXPECT_TRUE(Happens(may_call));
    crosses.emplace(SendEcho("crosses", {.deadline = Deadline::After(kSoon)}));
    called.Notify();
  });
  ASSERT_TRUE(probe_.AwaitHeld(1));
  auto accepted = SendHold(1, {.deadline = Deadline::After(kSoon)});
  ASSERT_TRUE(probe_.AwaitHeld(2));
  options.wait = GetParam().wait;
  auto successor =
      ServerBuilder().SetOptions(options).AddService(&successors_probe).Listen(endpoint_).Start();
  ASSERT_THAT(successor, IsOk());

  // Within one process the callback may run where it is answered.
  std::thread answers([&] { probe_.TakeHeld().Answer(); });
  EXPECT_TRUE(Happens(reads_nothing));
  EXPECT_TRUE(HasConnections(1));
  absl::Status shut_down;
  std::thread shutdown([&] { shut_down = server_->Shutdown(Deadline::After(kSoon)); });
  EXPECT_TRUE(Happens(faults->named()));
  may_call.Notify();
  answers.join();
  ASSERT_TRUE(Happens(called));
  EXPECT_THAT(crosses->Wait(), IsOk()) << "made again by itself";
  const auto result = accepted.Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kUnknown));
  shutdown.join();
  EXPECT_THAT(shut_down, IsOk()) << "nobody waits for the answer any more";
  probe_.TakeHeld().Answer();
  channel_ = nullptr;
  server_ = nullptr;
  *successor = nullptr;
}

}  // namespace
}  // namespace mi7::conformance
