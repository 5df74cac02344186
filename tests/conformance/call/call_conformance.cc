#include "tests/conformance/call/call_conformance.h"

#include <algorithm>

namespace mi7::conformance {

Reply Echo(ServerContext&, Probe::EchoParams::Reader params, Probe::EchoResults::Builder results) {
  results.setText(params.getText());
  results.setData(params.getData());
  return absl::OkStatus();
}

Reply ProbeImpl::Hold(ServerContext& context, Probe::HoldParams::Reader params,
                      Probe::HoldResults::Builder results) {
  absl::MutexLock lock(&mutex_);
  held_.push_back({params.getNumber(), &context, results, context.Defer()});
  return Reply::Later();
}

ProbeImpl::Held ProbeImpl::TakeHeld() {
  if (!AwaitHeld(1)) return {~0u, nullptr, nullptr, DeferredCall()};
  absl::MutexLock lock(&mutex_);
  Held held = std::move(held_.front());
  held_.erase(held_.begin());
  return held;
}

bool ProbeImpl::AwaitHeld(size_t count) {
  absl::MutexLock lock(&mutex_);
  const auto enough = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return held_.size() >= count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), kSoon);
}

CallTest::~CallTest() {
  channel_ = nullptr;
  server_ = nullptr;
}

void CallTest::StartServer(const ServerOptions& options) {
  endpoint_ = GetParam().new_endpoint();
  RestartServer(options);
}

void CallTest::RestartServer(const ServerOptions& options) {
  ServerOptions complete = options;
  complete.wait = GetParam().wait;
  absl::StatusOr<std::unique_ptr<Server>> server =
      ServerBuilder().SetOptions(complete).AddService(&probe_).Listen(endpoint_).Start();
  ASSERT_THAT(server, IsOk());
  server_ = *std::move(server);
  endpoint_ = server_->endpoints()[0];
}

std::shared_ptr<Channel> CallTest::NewChannel(ChannelOptions options) const {
  options.wait = GetParam().wait;
  absl::StatusOr<std::shared_ptr<Channel>> channel = Channel::Create(endpoint_, options);
  EXPECT_THAT(channel, IsOk());
  return *std::move(channel);
}

void CallTest::Start(const ServerOptions& server, const ChannelOptions& channel) {
  ASSERT_NO_FATAL_FAILURE(StartServer(server));
  channel_ = NewChannel(channel);
}

Request<Probe::EchoParams, Probe::EchoResults> CallTest::EchoRequest(
    const std::string& text, const CallOptions& options) const {
  auto request = stub().Echo(options);
  request->setText(text);
  return request;
}

PendingCall<Probe::HoldResults> CallTest::SendHold(uint32_t number,
                                                   const CallOptions& options) const {
  auto request = stub().Hold(options);
  request->setNumber(number);
  return request.Send();
}

absl::StatusOr<std::string> CallTest::EchoText(const std::string& text,
                                               const CallOptions& options) const {
  EchoResult result = SendEcho(text, options).Wait();
  if (!result.ok()) return result.status();
  return std::string(result->getText());
}

testing::AssertionResult CallTest::Works() const {
  const absl::StatusOr<std::string> text =
      EchoText("works", {.deadline = Deadline::After(kSoon), .wait_for_ready = true});
  if (!text.ok()) return testing::AssertionFailure() << text.status();
  if (*text != "works") return testing::AssertionFailure() << "echo gave " << *text;
  return testing::AssertionSuccess();
}

}  // namespace mi7::conformance
