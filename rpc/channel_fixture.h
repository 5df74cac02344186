#pragma once

// For tests of channels: one whose servers are the test.

#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/fake_connection.h"
#include "rpc/request.h"
#include "rpc/server.h"
#include "rpc/session_testing.h"
#include "rpc/status_testing.h"
#include "transport/connection_decorator.h"

namespace mi7 {

// Puts connections whose peer is the test in place of a channel's. Thread-safe.
class FakeConnections final : public transport::ConnectionDecorator {
 public:
  absl::StatusOr<std::shared_ptr<transport::Connection>> Decorate(
      std::shared_ptr<transport::Connection> inner, transport::EventLoop*) override {
    auto made = std::make_shared<FakeConnection>();
    std::function<absl::Status(FakeConnection&)> prepare;
    {
      absl::MutexLock lock(&mutex_);
      if (!prepare_.empty()) {
        prepare = std::move(prepare_.front());
        prepare_.pop_front();
      }
    }
    if (prepare) {
      if (absl::Status prepared = prepare(*made); !prepared.ok()) return prepared;
    }
    inner->Close(absl::OkStatus());
    absl::MutexLock lock(&mutex_);
    made_.push_back(made);
    return made;
  }
  // What is done in the next attempt to connect for which nothing was said yet, before anybody uses
  // the connection. Not OK: the attempt fails so.
  void Prepare(std::function<absl::Status(FakeConnection&)> prepare) {
    absl::MutexLock lock(&mutex_);
    prepare_.push_back(std::move(prepare));
  }
  void Refuse(const absl::Status& why) {
    Prepare([why](FakeConnection&) { return why; });
  }
  // The connections in the order they were made, from 0; waits up to 20 s for it.
  FakeConnection& at(size_t index) {
    absl::MutexLock lock(&mutex_);
    const auto made = [this, index]()
                          ABSL_NO_THREAD_SAFETY_ANALYSIS { return made_.size() > index; };
    MI7_CHECK(mutex_.AwaitWithTimeout(absl::Condition(&made), absl::Seconds(20)), "it is made");
    return *made_[index];
  }
  FakeConnection& last() {
    absl::MutexLock lock(&mutex_);
    return *made_.back();
  }
  void End() {
    std::vector<std::shared_ptr<FakeConnection>> made;
    {
      absl::MutexLock lock(&mutex_);
      made = made_;
    }
    for (const auto& connection : made) connection->End();
  }

 private:
  absl::Mutex mutex_;
  std::deque<std::function<absl::Status(FakeConnection&)>> prepare_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<FakeConnection>> made_ ABSL_GUARDED_BY(mutex_);
};

// A channel whose servers are the test. What it has connected to at first does not matter.
class ChannelTest : public testing::Test {
 protected:
  using Pending = PendingCall<TestMessage>;

  void SetUp() override { ASSERT_THAT(server_, IsOk()); }
  void TearDown() override {
    if (channel_) channel_->Close();
    fakes_->End();
  }
  void Make(ChannelOptions options = {}) {
    options.decorator = fakes_;
    channel_ = *Channel::Create(kEndpoint, options);
  }
  // To the next of fakes_.
  void Connect() { ASSERT_THAT(channel_->Connect(Deadline::After(absl::Seconds(20))), IsOk()); }
  ClientCallRef NewCall(const CallOptions& options = {.repeat = Repeat::kNever}) {
    return ClientCallRef(channel_->NewCall(kBaseInfo, kBaseMethods[0], options));
  }
  Pending Send(const CallOptions& options = {.repeat = Repeat::kNever}, const char* key = "key") {
    ClientCallRef call = NewCall(options);
    call->request().initRoot<TestMessage>().setKey(key);
    call->Start();
    return Pending(std::move(call));
  }

  // Whom connections are made to before they are replaced.
  static constexpr char kEndpoint[] = "inproc:channel-test";
  const std::shared_ptr<FakeConnections> fakes_ = std::make_shared<FakeConnections>();
  LambdaService service_{kBaseInfo,
                         [](uint64_t, uint16_t, ServerCall& call) { return EchoKey(call); }};
  absl::StatusOr<std::unique_ptr<Server>> server_ =
      ServerBuilder().AddService(&service_).Listen(kEndpoint).Start();
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7
