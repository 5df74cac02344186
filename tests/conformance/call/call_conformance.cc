#include "tests/conformance/call/call_conformance.h"

#include <thread>

namespace mi7::conformance {

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

testing::AssertionResult CallTest::HasConnections(size_t count) const {
  const Deadline patience = Deadline::After(kSoon);
  while (server_->connection_count() != count) {
    if (patience.passed()) return testing::AssertionFailure() << server_->connection_count();
    std::this_thread::yield();
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult CallTest::Works() const {
  const CallOptions options = {.deadline = Deadline::After(kSoon), .wait_for_ready = true};
  absl::StatusOr<std::string> text;
  do {
    text = EchoText("works", options);
    // A call that meets the end of a connection is not sent, or refused; the next one reconnects.
  } while (absl::IsUnavailable(text.status()) &&
           (OutcomeOf(text.status()) == CallOutcome::kNotSent ||
            OutcomeOf(text.status()) == CallOutcome::kRefused));
  if (!text.ok()) return testing::AssertionFailure() << text.status();
  if (*text != "works") return testing::AssertionFailure() << "echo gave " << *text;
  return testing::AssertionSuccess();
}

}  // namespace mi7::conformance
