// A thread inside Send, for as long as the system lets it be there, while the server is destroyed.
//
// This file defines write(), with which such a thread wakes the event loop.

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/wait_policy.h"

namespace {

// Holds up the next write() of one thread.
struct Gate {
  absl::Notification reached;
  absl::Notification open;
};
thread_local Gate* gate = nullptr;

}  // namespace

extern "C" ssize_t write(int fd, const void* data, size_t size) {
  static const auto real = reinterpret_cast<decltype(&write)>(::dlsym(RTLD_NEXT, "write"));
  if (Gate* const held = std::exchange(gate, nullptr); held != nullptr) {
    held->reached.Notify();
    held->open.WaitForNotification();
  }
  return real(fd, data, size);
}

namespace mi7::badpeer {
namespace {

using conformance::Happens;
using conformance::Probe;
using conformance::ProbeImpl;

struct Deferred {
  DeferredCall call;
  std::optional<Probe::EchoResults::Builder> results;
};

// One attempt; false when the thread did not have to wake the loop, which was awake.
bool ServerWaitsForTheSender() {
  ProbeImpl probe;
  Deferred deferred;
  absl::Notification called;
  probe.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader,
                      Probe::EchoResults::Builder results) -> Reply {
    deferred = {context.Defer(), results};
    called.Notify();
    return Reply::Later();
  };
  ServerOptions options;
  options.event_loops = 1;
  options.wait = transport::WaitPolicy::kBlock;  // asleep whenever there is nothing to do
  std::unique_ptr<Server> server =
      *ServerBuilder().SetOptions(options).AddService(&probe).Listen("tcp:127.0.0.1:0").Start();
  RawPeer peer = RawPeer::Greeted(server->endpoints()[0], /*receive_buffer=*/4096);
  RawPeer other = RawPeer::Greeted(server->endpoints()[0]);
  peer.Send(EchoCall(1));
  EXPECT_TRUE(Happens(called));

  // An answer that the socket does not take whole: the loop is told to write the rest.
  Gate held;
  absl::Notification sent;
  std::thread sender([&] {
    deferred.results->initData(16 << 20);
    gate = &held;
    deferred.call.Finish(absl::OkStatus());
    gate = nullptr;
    sent.Notify();
  });
  const Deadline patience = Deadline::After(conformance::kSoon);
  while (!held.reached.HasBeenNotified() && !sent.HasBeenNotified() && !patience.passed()) {
    std::this_thread::yield();
  }
  const bool reached = held.reached.HasBeenNotified();
  if (reached) {
    absl::Notification ended;
    std::thread stopper([&] {
      server = nullptr;
      ended.Notify();
    });
    // The sender is about to wake the loop, so nobody else does; but the loop may wake by itself.
    other.Send(Message(ControlHeader(FrameType::kPong)));
    EXPECT_FALSE(ended.WaitForNotificationWithTimeout(absl::Milliseconds(100)))
        << "the server's event loop is gone, and a thread is about to wake it";
    held.open.Notify();
    EXPECT_TRUE(Happens(ended));
    stopper.join();
  }
  sender.join();
  return reached;
}

TEST(BusySenderTest, ServerDoesNotEndWhileAThreadIsInsideSend) {
  bool reached = false;
  for (int i = 0; i < 100 && !reached; ++i) reached = ServerWaitsForTheSender();
  EXPECT_TRUE(reached) << "no sender had to wake the loop";
}

}  // namespace
}  // namespace mi7::badpeer
