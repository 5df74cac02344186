#pragma once

// For tests of sessions: one whose connection's other end is the test.

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/fake_connection.h"
#include "rpc/request.h"
#include "rpc/session.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"

namespace mi7 {

using Pending = PendingCall<TestMessage>;

// A session whose peer is the test. It serves Base, and makes calls.
class SessionTest : public testing::Test, public Session::Observer {
 protected:
  void TearDown() override { connection_->End(); }
  void Start(const Limits& limits = {}) {
    auto config = std::make_shared<SessionConfig>();
    config->limits = limits;
    config->dispatcher = &dispatcher_;
    ASSERT_THAT(dispatcher_.Add(&service_), IsOk());
    session_ = std::make_shared<Session>(connection_, observer_, config);
    connection_->Start(session_);
  }
  // With one reference, the caller's.
  ClientCall* NewCall(const CallOptions& options = {}, const MethodInfo& method = kBaseMethods[0]) {
    ClientCall* const call = ClientCall::New(channel_, std::shared_ptr(session_), kBaseInfo, method,
                                             options, transport::NewHeapMessage(64));
    call->request().initRoot<TestMessage>().setKey("request");
    return call;
  }
  // A call that was handed to the session, as a channel does.
  Pending Send(const CallOptions& options = {}, const MethodInfo& method = kBaseMethods[0]) {
    ClientCall* const call = NewCall(options, method);
    session_->calls().Send(call);
    return Pending(ClientCallRef(call));
  }
  void OnGoAway(Session&) override { events_.push_back("go away"); }
  void OnSessionClosed(Session&, const absl::Status& why) override {
    events_.push_back(why.ToString());
  }
  void OnDrained(Session&) override { events_.push_back("drained"); }

  const std::shared_ptr<Channel> channel_ = *Channel::Create("inproc:never-connected");
  const std::shared_ptr<Session::Observer> observer_{this, [](Session::Observer*) {}};
  LambdaService service_{kBaseInfo, [this](uint64_t, uint16_t, ServerCall& call) -> Reply {
                           if (!defer_) return EchoKey(call);
                           deferred_.push_back(call.context().Defer());
                           return Reply::Later();
                         }};
  Dispatcher dispatcher_;
  bool defer_ = false;
  std::vector<DeferredCall> deferred_;
  std::shared_ptr<FakeConnection> connection_ = std::make_shared<FakeConnection>();
  std::shared_ptr<Session> session_;
  std::vector<std::string> events_;
};

}  // namespace mi7
