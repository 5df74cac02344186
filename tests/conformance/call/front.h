#pragma once

// A server before the one of a test, whose handlers call that one, and a caller that gives up.

#include <memory>
#include <optional>
#include <utility>

#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "tests/conformance/call/call_transport.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::conformance {

// Ways in which a caller gives up.
enum class WaysToEnd { kCancel, kDisconnect, kDeadline };
inline constexpr WaysToEnd kEnds[] = {WaysToEnd::kCancel, WaysToEnd::kDisconnect,
                                      WaysToEnd::kDeadline};
// How long the caller waits that gives up at a deadline. It passes by a fake clock, or a slow
// machine would let it pass before the call is where it should be by then. Shorter than
// write_stall_timeout.
inline constexpr absl::Duration kCallersTime = absl::Seconds(40);

class Front {
 public:
  Front(const CallTransport& transport, EchoHandler on_echo) {
    probe_.on_echo = std::move(on_echo);
    ServerOptions options;
    options.wait = transport.wait;
    server_ = *ServerBuilder()
                   .SetOptions(options)
                   .AddService(&probe_)
                   .Listen(transport.new_endpoint())
                   .Start();
    ChannelOptions channel;
    channel.wait = transport.wait;
    channel_ = *Channel::Create(server_->endpoints()[0], channel);
  }

  PendingCall<Probe::EchoResults> Send(const CallOptions& options = {}) {
    return ProbeStub(channel_).Echo(options).Send();
  }
  // A call whose caller gives up, in the way asked for, when GiveUp is called.
  void SendToGiveUp(WaysToEnd ends) {
    CallOptions options;
    if (ends == WaysToEnd::kDeadline) options.deadline = Deadline::After(kCallersTime);
    call_.emplace(Send(options));
    if (ends == WaysToEnd::kDeadline) {
      // So that the caller notices by itself; the server does, too.
      call_->Then([](EchoResult) {});
    }
  }
  void GiveUp(WaysToEnd ends, FakeClock& clock) {
    if (ends == WaysToEnd::kCancel) call_->Cancel();
    if (ends == WaysToEnd::kDisconnect) channel_->Close();
    if (ends == WaysToEnd::kDeadline) clock.Advance(kCallersTime);
  }
  Server& server() { return *server_; }

 private:
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
  std::optional<PendingCall<Probe::EchoResults>> call_;
};

}  // namespace mi7::conformance
