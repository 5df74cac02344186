// FaultScript on either side: messages of streams that it drops.

#include <cstdint>
#include <memory>

#include "tests/conformance/call/stream_conformance.h"
#include "transport/fault/fault_script.h"

namespace mi7::conformance {
namespace {

TEST_P(StreamTest, MessageThatAScriptDropsIsMissingAndTheOthersArrive) {
  for (const bool at_server : {false, true}) {
    SCOPED_TRACE(at_server ? "the server's" : "the channel's");
    auto script = std::make_shared<FaultScript>();
    ServerOptions server;
    ChannelOptions channel;
    (at_server ? server.decorator : channel.decorator) = script;
    Start(server, channel);
    script->Add({.frames = FaultFrames::kStreamMessages,
                 .way = at_server ? FaultWay::kSent : FaultWay::kReceived,
                 .first = 2});
    auto reader = Watch(3);
    ASSERT_TRUE(GivesItems(reader, 0, 1));
    ASSERT_TRUE(GivesItems(reader, 2, 3));
    const ItemRead end = reader.Read().Wait();
    ASSERT_THAT(end, IsOk());
    EXPECT_FALSE(*end);
    EXPECT_EQ(script->hits(), 1u);
    // And the other way.
    script->Add({.frames = FaultFrames::kStreamMessages,
                 .way = at_server ? FaultWay::kReceived : FaultWay::kSent,
                 .first = 2});
    auto upload = stub().Upload();
    for (uint64_t number = 0; number < 3; ++number) {
      ASSERT_THAT(upload.Write(NewItem(upload.writer(), number)).Wait(), IsOk());
    }
    const auto uploaded = upload.Finish().Wait();
    ASSERT_THAT(uploaded, IsOk());
    EXPECT_EQ(uploaded->getCount(), 2u);
    EXPECT_TRUE(Answers());
    EXPECT_EQ(script->hits(), 2u) << "of the messages of streams alone";
    channel_ = nullptr;
    server_ = nullptr;
  }
}

}  // namespace
}  // namespace mi7::conformance
