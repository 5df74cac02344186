#include "rpc/server_sessions.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/session_fixture.h"

namespace mi7 {
namespace {

using testing::ElementsAre;

using ServerSessionsTest = SessionTest;

// At the deadline of Server::Shutdown.
TEST_F(ServerSessionsTest, CallThatIsAnsweredInlineIsCountedOnceWhenItIsCutOff) {
  Start();
  ServerSessions sessions;
  sessions.Add(session_);
  std::vector<size_t> calls;
  LambdaService service(kOtherInfo, [&](uint64_t, uint16_t, ServerCall& call) -> Reply {
    calls.push_back(sessions.Close().calls);
    const DeferredCall deferred = call.context().Defer();
    calls.push_back(sessions.Close().calls);
    return EchoKey(call);
  });
  ASSERT_THAT(dispatcher_.Add(&service), IsOk());
  connection_->Deliver(MakeCall(7, kOtherId, kOtherId, 0));
  EXPECT_THAT(calls, ElementsAre(1u, 1u)) << "inline; deferred by a handler that still runs";
  EXPECT_EQ(sessions.Close().calls, 0u);
}

}  // namespace
}  // namespace mi7
