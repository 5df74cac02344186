#pragma once

// What calls must do on every transport. The tests (call_*.cc) are instantiated for a transport by
// a test program that names its endpoints:
//
//   INSTANTIATE_TEST_SUITE_P(Tcp, CallTest, Values(CallTransport{"tcp", ...}), CallTransportName);

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/call_transport.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::conformance {

class CallTest : public testing::TestWithParam<CallTransport> {
 protected:
  ~CallTest() override;

  // Starts server_ with probe_ on a new endpoint, or again on the last one.
  void StartServer(const ServerOptions& options = {});
  void RestartServer(const ServerOptions& options = {});
  // Ends server_ at once; nobody listens on endpoint_ then.
  void StopServer() { server_ = nullptr; }
  // Ends channel_ and server_, and with them the handlers and the calls that go on, before what
  // these use of a test's own variables: declared after those, in a test that may return early.
  class Ends {
   public:
    explicit Ends(CallTest* test) : test_(test) {}
    ~Ends() {
      if (test_->channel_ != nullptr) test_->channel_->Close();
      test_->channel_ = nullptr;
      test_->server_ = nullptr;
    }
    Ends(const Ends&) = delete;
    Ends& operator=(const Ends&) = delete;

   private:
    CallTest* const test_;
  };
  // Options of a channel that connects and repeats almost without delay.
  static ChannelOptions Impatient() {
    ChannelOptions options;
    options.backoff.initial = absl::Milliseconds(1);
    options.backoff.max = absl::Milliseconds(5);
    options.retry.policy.backoff.initial = absl::Milliseconds(1);
    options.retry.policy.backoff.max = absl::Seconds(1);
    return options;
  }
  // A channel to endpoint_.
  std::shared_ptr<Channel> NewChannel(ChannelOptions options = {}) const;
  // Server and channel_, not connected yet.
  void Start(const ServerOptions& server = {}, const ChannelOptions& channel = {});
  // Start with a handler for echo.
  void Start(EchoHandler on_echo) {
    probe_.on_echo = std::move(on_echo);
    Start();
  }

  ProbeStub stub() const { return ProbeStub(channel_); }
  // A call of echo, ready to be sent.
  Request<Probe::EchoParams, Probe::EchoResults> EchoRequest(const std::string& text,
                                                             const CallOptions& options = {}) const;
  PendingCall<Probe::EchoResults> SendEcho(const std::string& text,
                                           const CallOptions& options = {}) const {
    return EchoRequest(text, options).Send();
  }
  PendingCall<Probe::HoldResults> SendHold(uint32_t number, const CallOptions& options = {}) const;
  // A blocking echo; the text that came back.
  absl::StatusOr<std::string> EchoText(const std::string& text,
                                       const CallOptions& options = {}) const;
  // Whether a call works, now.
  testing::AssertionResult Works() const;
  // Whether the server comes to have `count` connections: over mi7:// the one that a client did not
  // choose takes a moment to end.
  testing::AssertionResult HasConnections(size_t count) const;

  ProbeImpl probe_;
  std::string endpoint_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7::conformance
