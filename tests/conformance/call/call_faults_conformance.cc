// FaultScript on either side: connections that it refuses.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "tests/conformance/call/call_conformance.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

TEST_P(CallTest, ConnectionsThatAScriptRefusesAreMadeAgain) {
  for (const bool at_server : {false, true}) {
    SCOPED_TRACE(at_server ? "the server's" : "the channel's");
    auto script = std::make_shared<FaultScript>();
    ServerOptions server;
    ChannelOptions channel = Impatient();
    (at_server ? server.decorator : channel.decorator) = script;
    Start(server, channel);
    ASSERT_TRUE(Works());
    EXPECT_EQ(script->hits(), 0u);
    // Over mi7:// a client may come twice at once.
    script->Refuse(2);
    channel_ = NewChannel(channel);
    const Deadline patience = Deadline::After(kSoon);
    bool works = false;
    while (!works || script->hits() < 2) {
      ASSERT_FALSE(patience.passed()) << script->hits();
      const absl::StatusOr<std::string> text = EchoText("text");
      works = text.ok();
      if (!works) {
        ASSERT_THAT(text, StatusIs(absl::StatusCode::kUnavailable));
      }
    }
    EXPECT_EQ(script->hits(), 2u);
    channel_ = nullptr;
    server_ = nullptr;
  }
}

}  // namespace
}  // namespace mi7::conformance
