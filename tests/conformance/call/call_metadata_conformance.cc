// Metadata and trace context, there and back.

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <capnp/message.h>

#include "absl/strings/str_cat.h"
#include "rpc/client_call.h"
#include "rpc/metadata.h"
#include "rpc/request.h"
#include "rpc/status_details.h"
#include "rpc/trace_context.h"
#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::shared_ptr<const Metadata> Share(Metadata metadata) {
  return std::make_shared<const Metadata>(std::move(metadata));
}

Metadata SomeMetadata() {
  Metadata metadata{{"tenant", "blue"}, {"empty", ""}, {"tenant", "gr\xc3\xbcn"}};
  metadata.AddBinary("blob", std::string("\0\1\xff", 3));
  return metadata;
}

// Sends the call's metadata back as initial metadata, and a few words of its own as trailing.
Reply EchoMetadata(ServerContext& context, Probe::EchoParams::Reader params,
                   Probe::EchoResults::Builder results) {
  context.initial_metadata() = context.metadata();
  context.trailing_metadata().Add("trailing", params.getText().cStr());
  return Echo(context, params, results);
}

TEST_P(CallTest, MetadataTravelsThereAndBack) {
  Start(EchoMetadata);
  // The first call waits for the connection, the others are built in its memory.
  for (int i = 0; i < 3; ++i) {
    const auto received = std::make_shared<ResponseMetadata>();
    const CallOptions options = {.metadata = Share(SomeMetadata()), .received = received};
    EXPECT_THAT(EchoText("text", options), IsOk());
    EXPECT_EQ(received->initial, SomeMetadata());
    EXPECT_EQ(received->trailing, (Metadata{{"trailing", "text"}}));
  }
}

TEST_P(CallTest, MetadataOfAnEarlierCallDoesNotStay) {
  Start([](ServerContext& context, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    EXPECT_TRUE(context.metadata().empty());
    EXPECT_EQ(context.trace(), nullptr);
    return Echo(context, params, results);
  });
  const auto received = std::make_shared<ResponseMetadata>();
  received->initial.Add("stale", "value");
  EXPECT_THAT(EchoText("text", {.received = received}), IsOk());
  EXPECT_TRUE(received->empty());
}

TEST_P(CallTest, MetadataComesWithAFailureAndItsDetails) {
  Start(
      [](ServerContext& context, Probe::EchoParams::Reader, Probe::EchoResults::Builder) -> Reply {
        context.initial_metadata().Add("server", "7");
        context.trailing_metadata() = context.metadata();
        absl::Status status = absl::NotFoundError("no such thing");
        capnp::MallocMessageBuilder message;
        message.initRoot<conformance::Detail>().setNumber(42);
        AttachDetail<conformance::Detail>(message, status);
        return status;
      });
  const auto received = std::make_shared<ResponseMetadata>();
  const EchoResult result =
      SendEcho("text", {.metadata = Share(SomeMetadata()), .received = received}).Wait();
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kNotFound, "no such thing"));
  int64_t number = 0;
  EXPECT_TRUE(ReadDetail<conformance::Detail>(
      result.status(), [&](conformance::Detail::Reader detail) { number = detail.getNumber(); }));
  EXPECT_EQ(number, 42);
  EXPECT_EQ(received->initial, (Metadata{{"server", "7"}}));
  EXPECT_EQ(received->trailing, SomeMetadata());
}

TEST_P(CallTest, DeferredAnswersReadAndSendMetadata) {
  Start();
  const auto received = std::make_shared<ResponseMetadata>();
  auto pending = SendHold(3, {.metadata = Share(SomeMetadata()), .received = received});
  ProbeImpl::Held held = probe_.TakeHeld();
  ASSERT_EQ(held.number, 3u);
  held.context->trailing_metadata() = held.context->metadata();
  held.Answer();
  EXPECT_THAT(pending.Wait(), IsOk());
  EXPECT_EQ(received->trailing, SomeMetadata());
}

TEST_P(CallTest, MetadataUpToTheLimitTravels) {
  Start(EchoMetadata);
  Metadata large;
  large.AddBinary("large", std::string(60'000, 'x'));
  for (int i = 0; i < 100; ++i) large.Add(absl::StrCat("key-", i), absl::StrCat("value-", i));
  const auto received = std::make_shared<ResponseMetadata>();
  const std::string text(100'000, 't');
  const CallOptions options = {.metadata = Share(large), .received = received};
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(SendEcho("", options).Wait(), IsOk());
    EXPECT_EQ(received->initial, large);
  }
  // With large parameters and results, too.
  probe_.on_echo = Echo;
  const EchoResult result = SendEcho(text, options).Wait();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->getText().size(), text.size());
}

TEST_P(CallTest, MetadataAgainstTheRulesIsNotSent) {
  Start();
  ASSERT_TRUE(Works());
  Metadata many;
  for (uint32_t i = 0; i <= Limits{}.metadata_entries_max; ++i) many.Add("key", "value");
  Metadata large;
  large.AddBinary("large", std::string(Limits{}.extra_bytes_max, 'x'));
  // Its bytes are within the limit, with Cap'n Proto's around them they are not.
  Metadata almost;
  almost.AddBinary("large", std::string(Limits{}.extra_bytes_max - 16, 'x'));
  const struct {
    Metadata metadata;
    absl::StatusCode code;
    const char* text;
  } kCases[] = {
      {Metadata{{"Key", "v"}}, absl::StatusCode::kInvalidArgument, "metadata key \"Key\""},
      {Metadata{{"key", "\n"}}, absl::StatusCode::kInvalidArgument, "text value \"\\n\""},
      {many, absl::StatusCode::kResourceExhausted, "metadata_entries_max is 128"},
      {large, absl::StatusCode::kResourceExhausted, "extra_bytes_max is 65536"},
      {almost, absl::StatusCode::kResourceExhausted, "extra_bytes_max"},
  };
  for (const auto& test : kCases) {
    const EchoResult result = SendEcho("x", {.metadata = Share(test.metadata)}).Wait();
    EXPECT_THAT(result,
                StatusIs(test.code, AllOf(StartsWith("Probe.echo: "), HasSubstr(test.text))));
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  }
  EXPECT_TRUE(Works());
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, MetadataOverTheServersLimitsIsRefused) {
  ServerOptions options;
  options.limits.metadata_entries_max = 2;
  options.limits.extra_bytes_max = 1024;
  Start(options);
  ASSERT_TRUE(Works());
  const EchoResult many =
      SendEcho("x", {.metadata = Share(Metadata{{"a", ""}, {"b", ""}, {"c", ""}})}).Wait();
  EXPECT_THAT(many, StatusIs(absl::StatusCode::kResourceExhausted,
                             HasSubstr("metadata of 3 entries, metadata_entries_max is 2")));
  EXPECT_THAT(many, OutcomeIs(CallOutcome::kRefused));
  const EchoResult large =
      SendEcho("x", {.metadata = Share(Metadata{{"a", std::string(2000, 'x')}})}).Wait();
  EXPECT_THAT(large, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("extra_bytes_max")));
  EXPECT_TRUE(Works());
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, MetadataOverTheClientsLimitsFailsTheCallAlone) {
  for (const bool entries : {true, false}) {
    SCOPED_TRACE(entries);
    probe_.on_echo = [entries](ServerContext& context, Probe::EchoParams::Reader params,
                               Probe::EchoResults::Builder results) -> Reply {
      if (params.getText() == "works") return Echo(context, params, results);
      if (entries) {
        context.trailing_metadata() = Metadata{{"a", ""}, {"b", ""}, {"c", ""}};
      } else {
        context.trailing_metadata().Add("a", std::string(2000, 'x'));
      }
      return absl::OkStatus();
    };
    ChannelOptions options;
    options.limits.metadata_entries_max = 2;
    options.limits.extra_bytes_max = 1024;
    Start({}, options);
    const auto received = std::make_shared<ResponseMetadata>();
    EXPECT_THAT(SendEcho("x", {.received = received}).Wait(),
                StatusIs(absl::StatusCode::kResourceExhausted,
                         AllOf(HasSubstr("results: "),
                               HasSubstr(entries ? "metadata_entries_max" : "extra_bytes_max"))));
    EXPECT_TRUE(received->empty());
    EXPECT_TRUE(Works());
    EXPECT_TRUE(HasConnections(1));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(CallTest, AHandlersMetadataAgainstTheRulesIsItsFault) {
  Start([](ServerContext& context, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results) -> Reply {
    if (params.getText() == "works") return Echo(context, params, results);
    context.trailing_metadata().Add("Bad Key", "v");
    if (params.getText() == "error") return absl::AbortedError("why");
    return Echo(context, params, results);
  });
  const auto received = std::make_shared<ResponseMetadata>();
  EXPECT_THAT(
      SendEcho("x", {.received = received}).Wait(),
      StatusIs(absl::StatusCode::kInternal, AllOf(StartsWith("results: metadata key \"Bad Key\""),
                                                  HasSubstr("; the call has run"))));
  EXPECT_THAT(SendEcho("error", {.received = received}).Wait(),
              StatusIs(absl::StatusCode::kAborted,
                       StartsWith("why [left out by mi7: metadata key \"Bad Key\"")));
  EXPECT_TRUE(Works());
}

TEST_P(CallTest, AMalformedExtraPartIsRefused) {
  Start();
  ASSERT_TRUE(Works());
  const std::vector<std::vector<uint64_t>> kMalformed = {
      {0x00000000ffffffff, 0},                                     // 2^32 segments
      {0x0000000100000000, 0x0001000000001000},                    // root beyond the end
      {0x0000000200000000, 0x0001000000000000, 0x7fff'0000'0001},  // metadata beyond the end
      {0x0000000100000000, 0x0000000000000002},                    // a far pointer to itself
  };
  const InterfaceInfo& probe = ProbeService::info();
  for (const std::vector<uint64_t>& words : kMalformed) {
    ClientCallRef call(channel_->NewCall(probe, probe.methods[0], {}));
    call->request().initRoot<Probe::EchoParams>().setText("x");
    call->request().SetExtra(std::as_bytes(std::span(words)));
    call->Start();
    const EchoResult result = PendingCall<Probe::EchoResults>(std::move(call)).Wait();
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << result.status();
    EXPECT_THAT(result, OutcomeIs(CallOutcome::kRefused));
  }
  EXPECT_TRUE(Works());
  EXPECT_TRUE(HasConnections(1));
}

TEST_P(CallTest, TheTraceReachesTheHandlerAndTheCallsItMakes) {
  ProbeImpl backend_probe;
  std::shared_ptr<const TraceContext> at_backend;
  backend_probe.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                              Probe::EchoResults::Builder results) -> Reply {
    at_backend = context.trace();
    return Echo(context, params, results);
  };
  ServerOptions options;
  options.wait = GetParam().wait;
  const auto backend = *ServerBuilder()
                            .SetOptions(options)
                            .AddService(&backend_probe)
                            .Listen(GetParam().new_endpoint())
                            .Start();
  const ProbeStub to_backend(*Channel::Create(backend->endpoints()[0]));
  Start([&](ServerContext& context, Probe::EchoParams::Reader params,
            Probe::EchoResults::Builder results) -> Reply {
    auto request = to_backend.Echo({.trace = context.trace()});
    request->setText(params.getText());
    const EchoResult nested = co_await request.Send();
    if (!nested.ok()) co_return nested.status();
    results.setText(nested->getText());
    co_return absl::OkStatus();
  });
  TraceContext trace = TraceContext::NewRoot(/*sampled=*/true);
  trace.state = "vendor=opaque";
  EXPECT_THAT(EchoText("text", {.trace = std::make_shared<const TraceContext>(trace)}), IsOk());
  ASSERT_NE(at_backend, nullptr);
  EXPECT_EQ(*at_backend, trace);
}

}  // namespace
}  // namespace mi7::conformance
