// How connections end: OnClosed is the last callback, comes once, and says why.

#include <thread>

#include "tests/conformance/connection_conformance.h"

namespace mi7::transport::conformance {
namespace {

TEST_P(ConnectionConformance, CloseEndsBothSidesInOrder) {
  ConnectAndStart();
  client_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_TRUE(client_->closed_why().ok()) << client_->closed_why();
  EXPECT_TRUE(server_->closed_why().ok()) << server_->closed_why();
}

TEST_P(ConnectionConformance, TheAcceptedSideMayCloseToo) {
  ConnectAndStart();
  server_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_TRUE(client_->closed_why().ok()) << client_->closed_why();
}

TEST_P(ConnectionConformance, WhyACloseHappenedIsToldToThePeer) {
  ConnectAndStart();
  server_connection_->Close(absl::ResourceExhaustedError("too many of you"));
  ASSERT_TRUE(client_->WaitForClosed());
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_EQ(server_->closed_why(), absl::ResourceExhaustedError("too many of you"));
  EXPECT_EQ(client_->closed_why(), absl::ResourceExhaustedError("peer closed: too many of you"));
}

TEST_P(ConnectionConformance, TheFirstCloseCounts) {
  ConnectAndStart();
  client_connection_->Close(absl::AbortedError("first"));
  client_connection_->Close(absl::InternalError("second"));
  client_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  client_connection_->Close(absl::InternalError("after the end"));
  EXPECT_EQ(client_->closed_why(), absl::AbortedError("first"));
}

TEST_P(ConnectionConformance, OnClosedRunsOnTheLoopThatDrives) {
  std::atomic<bool> on_loop{false};
  ASSERT_NO_FATAL_FAILURE(Connect());
  client_ = std::make_shared<RecordingReceiver>();
  client_->on_closed = [&] { on_loop = client_loop_->InLoopThread(); };
  client_connection_->Start(client_);
  client_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  EXPECT_TRUE(on_loop);
}

TEST_P(ConnectionConformance, WhatWasSentBeforeCloseIsStillDelivered) {
  ConnectAndStart();
  constexpr uint32_t kCount = 50;
  for (uint32_t i = 1; i <= kCount; ++i) {
    ASSERT_TRUE(SendCall(*client_connection_, i, 100).ok());
  }
  client_connection_->Close(absl::CancelledError("enough"));
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_EQ(server_->closed_why(), absl::CancelledError("peer closed: enough"));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  ASSERT_EQ(messages.size(), kCount);
  for (uint32_t i = 1; i <= kCount; ++i) EXPECT_TRUE(IsCall(messages[i - 1], i, 100));
  ASSERT_TRUE(client_->WaitForClosed());
  EXPECT_TRUE(client_->unsent().empty());
}

TEST_P(ConnectionConformance, WhatIsToBeClosedWhenAllIsSentSendsAllFirst) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  // Several times what the system's buffers take, and the client takes nothing yet.
  uint32_t count = 400;
  for (uint32_t i = 1; i <= count; ++i) {
    ASSERT_TRUE(SendCall(*server_connection_, i, 50'000).ok());
  }
  const bool waits = server_connection_->HasUnsent();
  server_connection_->CloseWhenSent();
  const bool open = SendCall(*server_connection_, count + 1, 8).ok();
  if (open) ++count;
  if (!GetParam().late) {
    // Within a process all of it is with the peer at once.
    EXPECT_EQ(waits, server_connection_->info().transport != "inproc");
    EXPECT_EQ(open, waits) << "what comes meanwhile is sent, too";
  }

  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  ASSERT_TRUE(client_->WaitForMessages(count));
  uint32_t seen = 0;
  for (const IncomingMessage& message : client_->TakeMessages()) {
    ASSERT_EQ(message.header().call_id, ++seen);
  }
  ASSERT_TRUE(client_->WaitForClosed());
  EXPECT_TRUE(client_->closed_why().ok()) << client_->closed_why();
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_TRUE(server_->closed_why().ok()) << server_->closed_why();
  EXPECT_TRUE(server_->unsent().empty());
}

TEST_P(ConnectionConformance, WhatIsToBeClosedWhenAllIsSentIsClosedAtOnceWhenItIs) {
  ConnectAndStart();
  ASSERT_TRUE(SendCall(*client_connection_, 1, 100).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
  client_connection_->CloseWhenSent();
  ASSERT_TRUE(client_->WaitForClosed());
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_FALSE(client_connection_->HasUnsent());
}

TEST_P(ConnectionConformance, NothingIsDeliveredAfterCloseInACallback) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>([&](IncomingMessage message) {
    if (message.header().call_id != 3) return;
    server_connection_->Close(absl::OkStatus());
    EXPECT_FALSE(server_->closed()) << "OnClosed inside OnMessage";
  });
  client_ = std::make_shared<RecordingReceiver>();
  for (uint32_t i = 1; i <= 10; ++i) ASSERT_TRUE(SendCall(*client_connection_, i, 10).ok());
  client_connection_->Start(client_);
  server_connection_->Start(server_);
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_EQ(server_->message_count(), 3u);
  EXPECT_TRUE(client_->WaitForClosed());
}

TEST_P(ConnectionConformance, ReserveAndSendAfterTheEndAreUnavailable) {
  ConnectAndStart();
  OutgoingMessage reserved_before = NewCall(*client_connection_, 1, 10);
  client_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  const absl::Status sent = client_connection_->Send(std::move(reserved_before));
  EXPECT_TRUE(absl::IsUnavailable(sent)) << sent;
  const absl::Status reserved = client_connection_->Reserve(10).status();
  EXPECT_TRUE(absl::IsUnavailable(reserved)) << reserved;
  ASSERT_TRUE(server_->WaitForClosed());
  const absl::Status peer_sent = SendCall(*server_connection_, 1, 10);
  EXPECT_TRUE(absl::IsUnavailable(peer_sent)) << peer_sent;
}

TEST_P(ConnectionConformance, DroppingAConnectionThatNeverStartedClosesIt) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  client_connection_.reset();
  ASSERT_TRUE(server_->WaitForClosed());
}

TEST_P(ConnectionConformance, AcceptedConnectionMayBeRefusedByClose) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  server_connection_->Close(absl::PermissionDeniedError("not you"));
  ASSERT_TRUE(client_->WaitForClosed());
  EXPECT_EQ(client_->closed_why(), absl::PermissionDeniedError("peer closed: not you"));
}

TEST_P(ConnectionConformance, MessagesThatCameBeforeStartAreDelivered) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  for (uint32_t i = 1; i <= 20; ++i) ASSERT_TRUE(SendCall(*client_connection_, i, 1000).ok());
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  ASSERT_TRUE(server_->WaitForMessages(20));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  for (uint32_t i = 1; i <= 20; ++i) EXPECT_TRUE(IsCall(messages[i - 1], i, 1000));
}

TEST_P(ConnectionConformance, MessagesAndTheEndThatCameBeforeStartAreDelivered) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  for (uint32_t i = 1; i <= 20; ++i) ASSERT_TRUE(SendCall(*client_connection_, i, 1000).ok());
  client_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  ASSERT_TRUE(server_->WaitForClosed());
  EXPECT_EQ(server_->message_count(), 20u);
  EXPECT_TRUE(server_->closed_why().ok()) << server_->closed_why();
}

TEST_P(ConnectionConformance, WhatAPeerCertainlyDidNotSeeIsToldAsUnsent) {
  Limits limits;
  limits.queued_bytes_max = 1u << 20;
  limits.message_bytes_max = 1u << 20;
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  // The server takes nothing; at the end something is queued that no system buffer had room for.
  uint32_t accepted = 0;
  while (SendCall(*client_connection_, accepted + 1, 100'000).ok()) ++accepted;
  server_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  const std::vector<uint32_t> unsent = client_->unsent();
  EXPECT_TRUE(!unsent.empty() || GetParam().late);
  for (size_t i = 0; i < unsent.size(); ++i) {
    EXPECT_EQ(unsent[i], accepted - unsent.size() + 1 + i) << "the last ones, in order";
  }
}

TEST_P(ConnectionConformance, BothSidesMayCloseAtOnce) {
  for (int i = 0; i < 20; ++i) {
    ConnectAndStart();
    ASSERT_TRUE(SendCall(*client_connection_, 1, 10).ok());
    ASSERT_TRUE(SendCall(*server_connection_, 1, 10).ok());
    std::thread closer([this] { server_connection_->Close(absl::OkStatus()); });
    client_connection_->Close(absl::OkStatus());
    closer.join();
    ASSERT_TRUE(client_->WaitForClosed());
    ASSERT_TRUE(server_->WaitForClosed());
    TearDown();
  }
}

TEST_P(ConnectionConformance, CallersSurviveACloseAtAnyMoment) {
  for (int round = 0; round < 20; ++round) {
    ConnectToEcho();
    const std::shared_ptr<Caller> caller = StartCaller();
    std::atomic<uint32_t> calls{0};
    std::vector<std::thread> threads;
    for (uint32_t thread = 1; thread <= 3; ++thread) {
      threads.emplace_back([&, thread] {
        for (uint32_t i = 0;; ++i) {
          Caller::Call call(thread * 100000 + i);
          caller->Expect(call);
          if (!SendCall(*client_connection_, call.call_id, 50).ok() || caller->closed()) {
            caller->Forget(call);
            return;
          }
          EXPECT_TRUE(client_connection_->Await(call.completion, Deadline::Infinite()));
          if (!call.reply.has_body()) return;  // closed
          EXPECT_TRUE(IsCall(call.reply, call.call_id, 50));
          ++calls;
        }
      });
    }
    while (calls < static_cast<uint32_t>(round) * 5) std::this_thread::yield();
    (round % 2 == 0 ? client_connection_ : server_connection_)->Close(absl::OkStatus());
    for (std::thread& thread : threads) thread.join();
    TearDown();
  }
}

TEST_P(ConnectionConformance, TheReceiverIsReleasedAfterOnClosed) {
  ConnectAndStart();
  std::weak_ptr<RecordingReceiver> weak = client_;
  client_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(client_->WaitForClosed());
  client_.reset();
  // The loop still finishes the callback; when it is gone, so is the reference.
  server_connection_->Close(absl::OkStatus());
  ASSERT_TRUE(server_->WaitForClosed());
  listener_.reset();
  client_loop_.reset();
  EXPECT_TRUE(weak.expired());
}

TEST_P(ConnectionConformance, ConnectionsMayOutliveTheirLoopsOnceClosed) {
  ConnectAndStart();
  ASSERT_TRUE(SendCall(*client_connection_, 1, 10).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
  CloseBoth();
  listener_.reset();
  client_loop_.reset();
  server_loop_.reset();
  EXPECT_TRUE(absl::IsUnavailable(client_connection_->Reserve(10).status()));
  OutgoingMessage message = NewHeapMessage(10);
  FillCall(*message, 2, 10);
  EXPECT_TRUE(absl::IsUnavailable(client_connection_->Send(std::move(message))));
  client_connection_->SetBackground(true);
  client_connection_->Close(absl::OkStatus());
  EXPECT_FALSE(client_connection_->InCallback());
  EXPECT_FALSE(client_connection_->info().transport.empty());
  EXPECT_TRUE(IsCall(server_->TakeMessages()[0], 1, 10));
}

}  // namespace
}  // namespace mi7::transport::conformance
