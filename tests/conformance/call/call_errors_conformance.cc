// What goes wrong with one call, and leaves the connection and the process as they were.

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>
#include <kj/exception.h>

#include "absl/strings/str_cat.h"
#include "rpc/client_call.h"
#include "rpc/request.h"
#include "rpc/retry_info.h"
#include "rpc/retry_policy.h"
#include "rpc/status_details.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

TEST_P(CallTest, EveryCanonicalCodeTravelsWithMessageAndDetails) {
  Start([](ServerContext&, Probe::EchoParams::Reader params, Probe::EchoResults::Builder) -> Reply {
    const int code = params.getText()[0] - 'A';
    absl::Status status(static_cast<absl::StatusCode>(code), absl::StrCat("problem ", code));
    capnp::MallocMessageBuilder message;
    auto detail = message.initRoot<conformance::Detail>();
    detail.setWhat("what it was");
    detail.setNumber(1000 + code);
    AttachDetail<conformance::Detail>(message, status);
    return status;
  });
  for (int code = 1; code <= 16; ++code) {
    SCOPED_TRACE(code);
    const EchoResult result = SendEcho(std::string(1, static_cast<char>('A' + code))).Wait();
    EXPECT_THAT(result,
                StatusIs(static_cast<absl::StatusCode>(code), absl::StrCat("problem ", code)));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kAnswered));
    int64_t number = 0;
    EXPECT_TRUE(ReadDetail<conformance::Detail>(
        result.status(), [&](conformance::Detail::Reader detail) { number = detail.getNumber(); }));
    EXPECT_EQ(number, 1000 + code);
  }
}

TEST_P(CallTest, ErrorWithoutMessageTravels) {
  Start([](ServerContext&, Probe::EchoParams::Reader, Probe::EchoResults::Builder) -> Reply {
    return absl::AbortedError("");
  });
  EXPECT_EQ(SendEcho("x").Wait().status(), absl::AbortedError(""));
}

TEST_P(CallTest, LongErrorMessageTravelsAsFarAsItFits) {
  const std::string text(1'000'000, 'e');
  Start(
      [&](ServerContext&, Probe::EchoParams::Reader params, Probe::EchoResults::Builder) -> Reply {
        return absl::AbortedError(params.getText() == "long" ? text : text.substr(0, 30'000));
      });
  EXPECT_EQ(SendEcho("short").Wait().status(), absl::AbortedError(text.substr(0, 30'000)));
  EXPECT_THAT(SendEcho("long").Wait(),
              StatusIs(absl::StatusCode::kAborted,
                       AllOf(StartsWith(text.substr(0, 50'000)), HasSubstr("[cut by mi7"))));
}

TEST_P(CallTest, ErrorOfAHandlersOwnCallWasAnswered) {
  Start([](ServerContext&, Probe::EchoParams::Reader, Probe::EchoResults::Builder) -> Reply {
    return WithOutcome(absl::UnavailableError("backend"), CallOutcome::kNotSent);
  });
  const EchoResult result = SendEcho("x").Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable, StartsWith("backend")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kAnswered));
}

TEST_P(CallTest, ThrowingHandlerIsInternalAndTheServerGoesOn) {
  Start([](ServerContext&, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    const std::string what(params.getText());
    if (what == "std") throw std::runtime_error("std text");
    if (what == "kj") KJ_FAIL_REQUIRE("kj text");
    if (what == "int") throw 42;
    results.setText(params.getText());
    return absl::OkStatus();
  });
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(SendEcho("std").Wait(),
                StatusIs(absl::StatusCode::kInternal,
                         "handler of Probe.echo threw an exception: std text"));
    EXPECT_THAT(SendEcho("kj").Wait(),
                StatusIs(absl::StatusCode::kInternal,
                         AllOf(StartsWith("handler of Probe.echo threw kj::Exception: "),
                               HasSubstr("kj text"))));
    EXPECT_THAT(SendEcho("int").Wait(),
                StatusIs(absl::StatusCode::kInternal,
                         "handler of Probe.echo threw something that is no std::exception"));
    EXPECT_TRUE(Works());
  }
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, ThrowingCoroutineIsInternalAndTheServerGoesOn) {
  Start([](ServerContext&, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "throw") throw std::runtime_error("from a coroutine");
    results.setText(params.getText());
    co_return absl::OkStatus();
  });
  EXPECT_THAT(SendEcho("throw").Wait(),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("from a coroutine")));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, DroppedDeferredCallIsInternal) {
  Start();
  auto call = SendHold(1);
  { ProbeImpl::Held dropped = probe_.TakeHeld(); }
  EXPECT_THAT(call.Wait(),
              StatusIs(absl::StatusCode::kInternal, "handler dropped the call without an answer"));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, ExceptionAfterDeferKeepsItsText) {
  std::optional<DeferredCall> kept;
  Start([&kept](ServerContext& context, Probe::EchoParams::Reader params,
                Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "works") return Echo(context, params, results);
    DeferredCall later = context.Defer();
    if (params.getText() == "kept") kept = std::move(later);
    throw std::runtime_error("the disk is full");
  });
  for (const char* text : {"dropped by the unwinding", "kept"}) {
    SCOPED_TRACE(text);
    EXPECT_THAT(SendEcho(text).Wait(),
                StatusIs(absl::StatusCode::kInternal, AllOf(StartsWith("handler of Probe.echo"),
                                                            HasSubstr("the disk is full"))));
  }
  kept->Finish(absl::OkStatus());  // too late, and no harm
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, LaterWithoutDeferIsInternal) {
  Start([](ServerContext& context, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "later") return Reply::Later();
    return Echo(context, params, results);
  });
  EXPECT_THAT(SendEcho("later").Wait(), StatusIs(absl::StatusCode::kInternal));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, MethodThatIsNotOverriddenIsUnimplemented) {
  Start();
  const auto result = stub().Unheard().Send().Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnimplemented,
                               "service Probe does not implement Probe.unheard"));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, UnknownServiceIsUnimplementedNamingIt) {
  Start();
  const auto result = ProbeOfTheFutureStub(channel_).Peek().Send().Wait();
  const std::string id =
      absl::StrCat("0x", absl::Hex(ProbeOfTheFutureService::info().id, absl::kZeroPad16));
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnimplemented,
                               AllOf(StartsWith("no service for interface " + id),
                                     HasSubstr("this server has Probe"))));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, UnknownMethodIsUnimplementedNamingIt) {
  Start();
  // A client of a later version of the schema.
  const InterfaceInfo& probe = ProbeService::info();
  const MethodInfo of_the_future = {probe.id, 99, "Probe.ofTheFuture"};
  ClientCallRef call(channel_->NewCall(probe, of_the_future, {}));
  call->request().initRoot<Probe::EchoParams>();
  call->Start();
  EXPECT_THAT(PendingCall<Probe::EchoResults>(std::move(call)).Wait(),
              StatusIs(absl::StatusCode::kUnimplemented,
                       "interface Probe of service Probe has no method @99 (it has 7)"));
  const MethodInfo of_a_stranger = {0x123456789abcdef0, 0, "Stranger.x"};
  ClientCallRef second(channel_->NewCall(probe, of_a_stranger, {}));
  second->request().initRoot<Probe::EchoParams>();
  second->Start();
  EXPECT_THAT(PendingCall<Probe::EchoResults>(std::move(second)).Wait(),
              StatusIs(absl::StatusCode::kUnimplemented,
                       "service Probe does not have interface 0x123456789abcdef0"));
  EXPECT_TRUE(Works());
}

// Sends an echo whose parameters' words the test has changed.
template <typename Change>
EchoResult SendChanged(Channel& channel, Change change) {
  const InterfaceInfo& probe = ProbeService::info();
  ClientCallRef call(channel.NewCall(probe, probe.methods[0], {}));
  call->request().initRoot<Probe::EchoParams>().setText("some text");
  const auto segment = call->request().getSegmentsForOutput()[0];
  change(const_cast<uint64_t*>(reinterpret_cast<const uint64_t*>(segment.begin())));
  call->Start();
  return PendingCall<Probe::EchoResults>(std::move(call)).Wait();
}

TEST_P(CallTest, MalformedParamsAreInvalidArgumentAndTheServerGoesOn) {
  Start();
  // Word 0 is the root pointer, 1 the pointer to the text, 2 to the data, 3 and on the text.
  const struct {
    const char* what;
    size_t word;
    uint64_t value;
  } kChanges[] = {
      {"root struct beyond the end", 0, uint64_t{0x0002'0000'0000'0000} | (1'000'000 << 2)},
      {"root struct before the begin", 0, uint64_t{0x0002'0000'ffff'fff0}},
      {"root is a list", 0, uint64_t{0x0000'0002'0000'0001}},
      {"root in a segment that is not there", 0, uint64_t{0x0000'0007'0000'0002}},
      {"root is a far pointer to itself", 0, uint64_t{0x0000'0000'0000'0002}},
      {"root is a double far pointer to itself", 0, uint64_t{0x0000'0000'0000'0006}},
      {"root is a capability", 0, uint64_t{0x0000'0000'0000'0003}},
      {"text beyond the end", 1, uint64_t{0x0000'7fff'0000'0001} | (uint64_t{0x52} << 32)},
      {"text of the wrong element size", 1, uint64_t{0x0000'0055'0000'0005}},
      {"text without its NUL", 1, uint64_t{0x0000'0022'0000'0005}},
      {"text is a struct", 1, uint64_t{0x0001'0001'0000'0004}},
      {"text of 2^29 elements of no size", 1, uint64_t{0xffff'fff8'0000'0005}},
  };
  for (const auto& test : kChanges) {
    SCOPED_TRACE(test.what);
    EXPECT_THAT(SendChanged(*channel_, [&](uint64_t* words) { words[test.word] = test.value; }),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         StartsWith("handler of Probe.echo: malformed Cap'n Proto message: ")));
    EXPECT_TRUE(Works());
  }
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, ParamsThatAmplifyAreInvalidArgument) {
  Start([](ServerContext&, Probe::EchoParams::Reader params, Probe::EchoResults::Builder) -> Reply {
    // Reads the same bytes again and again, as a message with overlapping pointers makes one do.
    size_t bytes = 0;
    for (int i = 0; i < 1'000'000; ++i) bytes += params.getData().size();
    return absl::InternalError(absl::StrCat("read ", bytes));
  });
  auto request = stub().Echo();
  request->initData(100'000);
  EXPECT_THAT(request.Send().Wait(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("limits.traversal_factor")));
}

TEST_P(CallTest, DeepParamsAreInvalidArgument) {
  // Structs in one another, by pointers to the next word: a handler follows them as far as it may.
  Start([](ServerContext&, Probe::EchoParams::Reader params, Probe::EchoResults::Builder) -> Reply {
    capnp::AnyStruct::Reader any = capnp::toAny(params);
    int depth = 1;
    while (any.getPointerSection().size() > 0 && !any.getPointerSection()[0].isNull()) {
      any = any.getPointerSection()[0].getAs<capnp::AnyStruct>();
      ++depth;
    }
    return absl::AbortedError(absl::StrCat("depth ", depth));
  });
  const auto send_nested = [this](uint32_t depth) {
    const InterfaceInfo& probe = ProbeService::info();
    ClientCallRef call(channel_->NewCall(probe, probe.methods[0], {}));
    auto pointers = call->request().getRoot<capnp::AnyPointer>().initAsAnyStruct(0, 2);
    for (uint32_t i = 1; i < depth; ++i) {
      pointers = pointers.getPointerSection()[0].initAsAnyStruct(0, 1);
    }
    call->Start();
    return PendingCall<Probe::EchoResults>(std::move(call)).Wait();
  };
  const uint32_t most = Limits().nesting_max;
  EXPECT_THAT(send_nested(most),
              StatusIs(absl::StatusCode::kAborted, absl::StrCat("depth ", most)));
  EXPECT_THAT(send_nested(most + 1),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too deeply")));
}

Limits SmallMessages() {
  Limits limits;
  limits.message_bytes_max = 64 << 10;
  limits.extra_bytes_max = 4096;
  limits.queued_bytes_max = 1 << 20;
  return limits;
}

TEST_P(CallTest, MessageOverOurLimitFailsTheCallAlone) {
  ChannelOptions options;
  options.limits = SmallMessages();
  Start({}, options);
  ASSERT_TRUE(Works());
  const EchoResult result = SendEcho(std::string(100'000, 'x')).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                               AllOf(StartsWith("Probe.echo: "), HasSubstr("message_bytes_max"),
                                     HasSubstr("65536"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  EXPECT_TRUE(Works());
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, MessageOverTheServersLimitFailsTheCallAlone) {
  ServerOptions options;
  options.limits = SmallMessages();
  Start(options);
  ASSERT_TRUE(Works());
  const EchoResult result = SendEcho(std::string(100'000, 'x')).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                               AllOf(StartsWith("Probe.echo: "), HasSubstr("65536"))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent)) << "the server said its limit in Hello";
  EXPECT_TRUE(Works());
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, MessageOverTheLimitAsTheFirstCallFailsTheCallAlone) {
  ServerOptions options;
  options.limits = SmallMessages();
  Start(options);
  EXPECT_THAT(SendEcho(std::string(100'000, 'x')).Wait(),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, ResultsOverEitherLimitFailTheCallAlone) {
  for (const bool servers_limit : {true, false}) {
    SCOPED_TRACE(servers_limit);
    probe_.on_echo = [](ServerContext& context, Probe::EchoParams::Reader params,
                        Probe::EchoResults::Builder results) -> Reply {
      if (params.getText() != "large") return Echo(context, params, results);
      results.initData(100'000);
      return absl::OkStatus();
    };
    ServerOptions server;
    ChannelOptions channel;
    (servers_limit ? server.limits : channel.limits) = SmallMessages();
    Start(server, channel);
    const EchoResult result = SendEcho("large").Wait();
    EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                                 AllOf(HasSubstr("results: "), HasSubstr("65536"))));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kAnswered));
    EXPECT_TRUE(Works());
    EXPECT_TRUE(HasConnections(1));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, ParamsOfTooManySegmentsFailTheCallAlone) {
  ChannelOptions options;
  options.limits.segments_max = 4;
  Start({}, options);
  auto request = stub().Echo();
  // Each one larger than all room so far makes a further segment.
  for (unsigned bytes = 100'000; bytes < 20'000'000; bytes *= 2) request->initData(bytes);
  const EchoResult result = request.Send().Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("segments_max")));
  EXPECT_TRUE(Works());
}

// Unlike what the call itself is to blame for: there is room for it soon.
TEST_P(CallTest, CallsInFlightOverTheServersLimitComeAgain) {
  ServerOptions options;
  options.limits.calls_in_flight_max = 1;
  Start(options);
  ASSERT_TRUE(Works());
  const auto often = std::make_shared<const RetryPolicy>(RetryPolicy{.attempts_max = 1000});
  auto held = SendHold(0);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  auto request = stub().Echo({.retry = often});
  request->setText(std::string(10'000, 'x'));
  auto second = request.Send();
  probe_.TakeHeld().Answer();
  EXPECT_THAT(held.Wait(), IsOk());
  const EchoResult result = second.Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getText(), std::string(10'000, 'x'));
}

// The first time for nothing, then out of the budget.
TEST_P(CallTest, CallsInFlightOverTheServersLimitComeAgainAsOftenAsTheBudgetAllows) {
  ServerOptions options;
  options.limits.calls_in_flight_max = 1;
  ChannelOptions channel;
  channel.retry.policy.attempts_max = 1000;
  channel.retry.budget = {.tokens_max = 2, .tokens_per_call = 0, .tokens_per_second = 0};
  Start(options, channel);
  ASSERT_TRUE(Works());
  auto held = SendHold(0);
  ASSERT_TRUE(probe_.AwaitHeld(1));
  const auto result = SendHold(1).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("(4 attempts)")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  probe_.TakeHeld().Answer();
  EXPECT_THAT(held.Wait(), IsOk());
}

TEST_P(CallTest, CallsInFlightOverTheServersLimitFail) {
  ServerOptions options;
  options.limits.calls_in_flight_max = 3;
  Start(options);
  ASSERT_TRUE(Works());
  std::vector<PendingCall<Probe::HoldResults>> held;
  for (uint32_t i = 0; i < 3; ++i) held.push_back(SendHold(i));
  const auto result = SendHold(3, {.repeat = Repeat::kNever}).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kResourceExhausted,
                               HasSubstr("calls_in_flight_max is 3")));
  EXPECT_EQ(RetryAfter(result.status()), LoadLimits().retry_after);
  EXPECT_THAT(result,
              testing::AnyOf(OutcomeIs(CallOutcome::kNotSent), OutcomeIs(CallOutcome::kRefused)));
  for (uint32_t i = 0; i < 3; ++i) probe_.TakeHeld().Answer();
  for (auto& call : held) EXPECT_THAT(call.Wait(), IsOk());
  EXPECT_TRUE(Works());
}

}  // namespace
}  // namespace mi7::conformance
