// Clients that read their answers late, of which much waits in their connection: a server that ends
// the connection meanwhile loses none of them, or says so.

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::badpeer {
namespace {

using conformance::kSoon;
using conformance::Probe;
using conformance::ProbeImpl;
using testing::HasSubstr;

// Several times what the system's buffers take of them, and less than a connection's queue.
constexpr uint32_t kCalls = 400;
constexpr size_t kAnswerBytes = 64 << 10;

// A peer that has made all its calls and read none of their answers; they have run.
class LateReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    probe_.on_echo = [this](ServerContext&, Probe::EchoParams::Reader,
                            Probe::EchoResults::Builder results) -> Reply {
      results.initData(kAnswerBytes);
      ++answered_;
      return absl::OkStatus();
    };
    server_ = *ServerBuilder().AddService(&probe_).Listen("tcp:127.0.0.1:0").Start();
    peer_ = RawPeer::Greeted(server_->endpoints()[0], /*receive_buffer=*/4096);
    std::string calls;
    for (uint32_t id = 0; id < kCalls; ++id) calls += EchoCall(id);
    ASSERT_TRUE(peer_.Send(calls));
    const Deadline patience = Deadline::After(kSoon);
    while (answered_ < kCalls && !patience.passed()) std::this_thread::yield();
    ASSERT_EQ(answered_, kCalls);
  }
  // Reads what comes until the end, or so many returns; their number.
  uint32_t ReadReturns(uint32_t most = kCalls + 1) {
    uint32_t returns = 0;
    while (returns < most && peer_.ReadMessageOf(FrameType::kReturn)) ++returns;
    return returns;
  }

  std::atomic<uint32_t> answered_{0};
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  RawPeer peer_;
};

TEST_F(LateReaderTest, WhoSaysGoAwayGetsAllAnswersAndThenTheEnd) {
  ASSERT_TRUE(peer_.Send(Message(ControlHeader(FrameType::kGoAway))));
  EXPECT_EQ(ReadReturns(kCalls), kCalls);
  EXPECT_TRUE(peer_.Ends());
}

TEST_F(LateReaderTest, WhoSendsNoMoreGetsAllAnswersAndThenTheEnd) {
  peer_.CloseSending();
  EXPECT_EQ(ReadReturns(kCalls), kCalls);
  EXPECT_TRUE(peer_.Ends());
}

TEST_F(LateReaderTest, WhoSendsNoMoreAndLeavesIsForgotten) {
  peer_.CloseSending();
  EXPECT_EQ(ReadReturns(3), 3u);
  peer_.Reset();
  const Deadline patience = Deadline::After(kSoon);
  while (server_->connection_count() != 0 && !patience.passed()) std::this_thread::yield();
  EXPECT_EQ(server_->connection_count(), 0u);
}

TEST_F(LateReaderTest, ShutdownSaysThatAnswersWereCutOff) {
  EXPECT_THAT(server_->Shutdown(Deadline::After(absl::Milliseconds(50))),
              StatusIs(absl::StatusCode::kDeadlineExceeded,
                       HasSubstr("answers that 1 clients had not read")));
  EXPECT_LT(ReadReturns(), kCalls);
}

TEST_F(LateReaderTest, ShutdownWaitsUntilTheAnswersAreRead) {
  std::thread shutdown([this] { EXPECT_THAT(server_->Shutdown(Deadline::After(kSoon)), IsOk()); });
  EXPECT_EQ(ReadReturns(kCalls), kCalls);
  peer_.Close();
  shutdown.join();
}

}  // namespace
}  // namespace mi7::badpeer
