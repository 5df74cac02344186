// Calls within one process.

#include "tests/conformance/call/call_conformance.h"

namespace mi7::conformance {
namespace {

// A handler runs inside a callback of its caller's connection, whose other end it would have to
// serve while it waits.
TEST(CallInprocTest, CallToItselfFromItsHandlerIsRefused) {
  ProbeImpl probe;
  std::shared_ptr<Channel> channel;
  absl::Status nested;
  probe.on_echo = [&](ServerContext& context, Probe::EchoParams::Reader params,
                      Probe::EchoResults::Builder results) {
    if (params.getText() == "outer") {
      auto request = ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)});
      request->setText("inner");
      nested = request.Send().Wait().status();
    }
    return Echo(context, params, results);
  };
  const auto server = *ServerBuilder().AddService(&probe).Listen(InprocName()).Start();
  channel = *Channel::Create(server->endpoints()[0]);
  for (const char* text : {"connected now", "outer", "afterwards"}) {
    auto request = ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)});
    request->setText(text);
    const EchoResult result = request.Send().Wait();
    ASSERT_THAT(result, IsOk());
    EXPECT_EQ(result->getText(), text);
  }
  EXPECT_THAT(nested, StatusIs(absl::StatusCode::kFailedPrecondition,
                               testing::HasSubstr("Wait() inside a callback or handler of the same "
                                                  "connection would wait for itself")));
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Inproc, CallTest,
                         testing::Values(CallTransport{"adaptive", "inproc", InprocName},
                                         CallTransport{"blocking", "inproc", InprocName,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

}  // namespace mi7::conformance
