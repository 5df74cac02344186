// Limits and back-pressure: memory stays bounded whatever the peer does, and nothing is lost.

#include <memory>
#include <thread>
#include <vector>

#include <capnp/any.h>
#include <gmock/gmock.h>

#include "tests/conformance/connection_conformance.h"

namespace mi7::transport::conformance {
namespace {

using testing::HasSubstr;

// Whether `what` holds, and goes on to for a while: the loops have done what they could.
template <typename Predicate>
bool Stays(Predicate what) {
  const Deadline still = Deadline::After(absl::Milliseconds(50));
  do {
    if (!what()) return false;
    std::this_thread::yield();
  } while (!still.passed());
  return true;
}

TEST_P(ConnectionConformance, MessageOverTheLimitIsRefusedAndTheConnectionGoesOn) {
  Limits limits;
  limits.message_bytes_max = 64 << 10;
  ConnectAndStart(nullptr, nullptr, limits);
  const absl::Status refused = SendCall(*client_connection_, 1, 64 << 10);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("message of 65584 bytes exceeds limits.message_bytes_max, 65536 bytes"));
  // The largest that is allowed: header, table and root pointer take 48.
  ASSERT_TRUE(SendCall(*client_connection_, 2, (64 << 10) - 48).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
  EXPECT_TRUE(IsCall(server_->TakeMessages()[0], 2, (64 << 10) - 48));
}

TEST_P(ConnectionConformance, ThePeersLimitIsKeptByTheSender) {
  Limits server_limits;
  server_limits.message_bytes_max = 32 << 10;
  ASSERT_NO_FATAL_FAILURE(Connect(server_limits));
  server_ = std::make_shared<RecordingReceiver>();
  client_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  client_connection_->Start(client_);
  EXPECT_EQ(client_connection_->info().negotiated.message_bytes_max, 32u << 10);
  const absl::Status refused = SendCall(*client_connection_, 1, 32 << 10);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("message_bytes_max, 32768"));
  ASSERT_TRUE(SendCall(*client_connection_, 2, 16 << 10).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
}

TEST_P(ConnectionConformance, ExtraPartOverTheLimitIsRefused) {
  Limits limits;
  limits.extra_bytes_max = 1024;
  ConnectAndStart(nullptr, nullptr, limits);
  const std::vector<std::byte> extra(1032);
  OutgoingMessage message = NewCall(*client_connection_, 1, 10);
  message->SetExtra(extra);
  const absl::Status refused = client_connection_->Send(std::move(message));
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1032 bytes"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("limits.extra_bytes_max, 1024"));
  ASSERT_TRUE(SendCall(*client_connection_, 2, 10).ok());
  EXPECT_TRUE(server_->WaitForMessages(1));
}

TEST_P(ConnectionConformance, TooManySegmentsAreRefused) {
  ConnectAndStart();
  static const std::vector<capnp::word> outside(8);
  const uint32_t parts = Limits{}.segments_max;
  absl::StatusOr<OutgoingMessage> message = client_connection_->Reserve(64 << 10);
  ASSERT_TRUE(message.ok());
  (*message)->header.type = FrameType::kReturn;
  auto list = (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(parts);
  const capnp::Data::Reader part(reinterpret_cast<const kj::byte*>(outside.data()), 64);
  for (uint32_t i = 0; i < parts; ++i) {
    list.adopt(i, (*message)->getOrphanage().referenceExternalData(part));
  }
  const absl::Status refused = client_connection_->Send(*std::move(message));
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("message of 513 segments exceeds limits.segments_max, 512"));
  ASSERT_TRUE(SendCall(*client_connection_, 2, 10).ok());
  EXPECT_TRUE(server_->WaitForMessages(1));
}

TEST_P(ConnectionConformance, APeerThatTakesNothingStopsTheSender) {
  Limits limits;
  limits.queued_bytes_max = 1u << 20;
  limits.message_bytes_max = 1u << 20;
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  uint32_t accepted = 0;
  absl::Status refused;
  // Far more than any system buffer holds.
  while (refused.ok() && accepted < 10'000) {
    refused = SendCall(*client_connection_, accepted + 1, 50'000);
    if (refused.ok()) ++accepted;
  }
  EXPECT_TRUE(IsQueueFull(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("limits.queued_bytes_max"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1048576"));
  const absl::Status too_large = SendCall(*client_connection_, 20'000, 2u << 20);
  EXPECT_TRUE(absl::IsResourceExhausted(too_large)) << too_large;
  EXPECT_FALSE(IsQueueFull(too_large)) << "it will never have room";
  EXPECT_GE(accepted, 20u);

  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  ASSERT_TRUE(client_->WaitForWritable(1));
  EXPECT_TRUE(SendCall(*client_connection_, accepted + 1, 50'000).ok());
  ++accepted;
  ASSERT_TRUE(server_->WaitForMessages(accepted));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  ASSERT_EQ(messages.size(), accepted);
  for (uint32_t i = 1; i <= accepted; ++i) ASSERT_TRUE(IsCall(messages[i - 1], i, 50'000));
}

TEST_P(ConnectionConformance, SendingFromOnWritableNeverLosesOrReorders) {
  Limits limits;
  limits.queued_bytes_max = 256u << 10;
  limits.message_bytes_max = 256u << 10;
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  constexpr uint32_t kCount = 2000;
  // Shared: the last message may arrive, and the test end, while its sender has still to count it.
  struct Counts {
    uint32_t sent = 0;  // by the first thread, then by callbacks only
    uint32_t seen = 0;
  };
  const auto counts = std::make_shared<Counts>();
  const auto send_all = [connection = client_connection_.get(), counts] {
    while (counts->sent < kCount && SendCall(*connection, counts->sent + 1, 20'000).ok()) {
      ++counts->sent;
    }
  };
  client_ = std::make_shared<RecordingReceiver>();
  client_->on_writable = send_all;
  server_ = std::make_shared<RecordingReceiver>([counts](IncomingMessage message) {
    ++counts->seen;
    EXPECT_EQ(message.header().call_id, counts->seen);
  });
  send_all();
  client_connection_->Start(client_);
  server_connection_->Start(server_);
  ASSERT_TRUE(server_->WaitForMessages(kCount));
}

// What a callback sends is held back, and what another thread sends meanwhile may come before it.
TEST_P(ConnectionConformance, RequestedOnWritableComesAfterAllThatCallbacksSent) {
  ASSERT_NO_FATAL_FAILURE(Connect());
  Connection* const connection = server_connection_.get();
  Event inside, requested;
  server_ = std::make_shared<RecordingReceiver>([&, connection](IncomingMessage) {
    EXPECT_TRUE(SendCall(*connection, 1, 100).ok());
    inside.Set();
    EXPECT_TRUE(requested.Wait());
    EXPECT_TRUE(SendCall(*connection, 2, 100).ok());
  });
  server_->on_writable = [connection] { EXPECT_TRUE(SendCall(*connection, 3, 100).ok()); };
  client_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  ASSERT_TRUE(SendCall(*client_connection_, 9, 100).ok());
  ASSERT_TRUE(inside.Wait());
  connection->RequestWritable();
  requested.Set();
  ASSERT_TRUE(client_->WaitForMessages(3));
  const std::vector<IncomingMessage> messages = client_->TakeMessages();
  for (uint32_t id = 1; id <= 3; ++id) EXPECT_TRUE(IsCall(messages[id - 1], id, 100));
  EXPECT_EQ(server_->writable_count(), 1u);
}

// Again and again, and of an end that is at rest.
TEST_P(ConnectionConformance, OnWritableComesWhenItIsRequested) {
  ConnectAndStart();
  for (size_t count = 1; count <= 3; ++count) {
    for (const auto& [connection, receiver] :
         {std::pair(client_connection_, client_), std::pair(server_connection_, server_)}) {
      connection->RequestWritable();
      ASSERT_TRUE(receiver->WaitForWritable(count));
    }
  }
  CloseBoth();
  client_connection_->RequestWritable();
  EXPECT_EQ(client_->writable_count(), 3u);
}

TEST_P(ConnectionConformance, OneMessageLargerThanTheQueueIsSentWhenTheQueueIsEmpty) {
  Limits limits;
  limits.queued_bytes_max = 64 << 10;
  ConnectAndStart(nullptr, nullptr, limits);
  for (uint32_t i = 1; i <= 3; ++i) {
    ASSERT_TRUE(SendCall(*client_connection_, i, 8u << 20).ok());
    ASSERT_TRUE(server_->WaitForMessages(i));
    // Delivered, but the sender's own accounts may lag behind by a moment.
    while (!client_connection_->Reserve(10).ok()) ASSERT_TRUE(client_->WaitForWritable(1));
  }
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  for (uint32_t i = 1; i <= 3; ++i) EXPECT_TRUE(IsCall(messages[i - 1], i, 8u << 20));
}

TEST_P(ConnectionConformance, WhatAServerSendsOutsideCallbacksWaitsForRoom) {
  Limits limits;
  limits.queued_bytes_max = 1u << 20;
  limits.message_bytes_max = 1u << 20;
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  // Several times what the queue and the system's buffers take.
  constexpr uint32_t kCount = 400;
  for (uint32_t i = 1; i <= kCount; ++i) {
    const absl::Status sent = SendCall(*server_connection_, i, 50'000);
    ASSERT_TRUE(sent.ok()) << sent;
  }
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  ASSERT_TRUE(client_->WaitForMessages(kCount));
  const std::vector<IncomingMessage> messages = client_->TakeMessages();
  for (uint32_t i = 1; i <= kCount; ++i) ASSERT_TRUE(IsCall(messages[i - 1], i, 50'000));
  // The requests that were not read meanwhile are read again.
  EXPECT_TRUE(SendCall(*client_connection_, 1, 50'000).ok());
  EXPECT_TRUE(server_->WaitForMessages(1));
}

// Both ends alike: streams go both ways.
TEST_P(ConnectionConformance, StreamsAreToldOfRoomAndNeitherTheyNorCallsAreRefused) {
  Limits limits;
  limits.stream_queued_bytes_max = 200'000;
  limits.queued_bytes_max = 4u << 20;
  limits.message_bytes_max = 1u << 20;
  for (const bool from_client : {true, false}) {
    ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
    Connection& sender = from_client ? *client_connection_ : *server_connection_;
    Connection& taker = from_client ? *server_connection_ : *client_connection_;
    client_ = std::make_shared<RecordingReceiver>();
    server_ = std::make_shared<RecordingReceiver>();
    const auto& told = from_client ? client_ : server_;
    const auto& reader = from_client ? server_ : client_;
    sender.Start(told);
    const auto send = [&](uint32_t number) {
      OutgoingMessage message = *sender.Reserve(50'000);
      message->header.type = FrameType::kStreamMessage;
      message->header.call_id = number;
      message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(50'000);
      return sender.Send(std::move(message));
    };
    uint32_t sent = 0;
    size_t full = 0;  // times that there was no room
    do {
      while (sender.HasRoom() && sent < 10'000) ASSERT_TRUE(send(++sent).ok());
      ++full;
    } while (sent < 10'000 && !Stays([&] { return !sender.HasRoom(); }));
    EXPECT_LT(sent, 10'000u);
    const size_t told_before = told->writable_count();
    EXPECT_LT(told_before, full);
    // The one who asked before sends one more each, whatever is queued by then.
    for (int i = 0; i < 30; ++i) ASSERT_TRUE(send(++sent).ok());
    // Calls are not held up by streams: it is their own bound that counts.
    ASSERT_FALSE(sender.HasRoom());
    const absl::Status called = SendCall(sender, ++sent, 50'000);
    EXPECT_TRUE(called.ok()) << called;

    taker.Start(reader);
    taker.SetBackground(true);
    ASSERT_TRUE(told->WaitForWritable(told_before + 1));
    EXPECT_TRUE(sender.HasRoom());
    ASSERT_TRUE(reader->WaitForMessages(sent));
    uint32_t seen = 0;
    for (const IncomingMessage& message : reader->TakeMessages()) {
      ASSERT_EQ(message.header().call_id, ++seen);
    }
    TearDown();
  }
}

TEST_P(ConnectionConformance, AServerWhoseRepliesAreNotTakenStopsTakingRequests) {
  Limits limits;
  limits.queued_bytes_max = 512u << 10;
  limits.message_bytes_max = 512u << 10;
  ConnectToEcho(limits);
  // The client takes nothing yet: first its own Sends go on, until the server's replies fill the
  // way back and the server stops reading.
  uint32_t accepted = 0;
  absl::Status refused;
  while (accepted < 20'000 && !Stays([&] {
           refused = SendCall(*client_connection_, accepted + 1, 20'000);
           if (!refused.ok()) return server_->message_count() < accepted;
           ++accepted;
           return false;
         })) {
  }
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_LT(server_->message_count(), accepted);

  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  ASSERT_TRUE(client_->WaitForMessages(accepted));
  const std::vector<IncomingMessage> replies = client_->TakeMessages();
  ASSERT_EQ(replies.size(), accepted);
  for (uint32_t i = 1; i <= accepted; ++i) ASSERT_TRUE(IsCall(replies[i - 1], i, 20'000));
  EXPECT_TRUE(client_->WaitForWritable(1));
}

// The peer takes nothing, and the first message is more than the system's buffers take of it, so
// what comes after it waits.
constexpr size_t kNeverTaken = 24u << 20;
// Each is kept in a block of memory that is many times its size. Of the full queue 8192 have room.
constexpr uint64_t kQueueOfSmall = 32u << 20;
constexpr uint32_t kSmallMost = 9'000;

TEST_P(ConnectionConformance, SmallMessagesThatWaitCountWithTheirMemory) {
  Limits limits;
  limits.queued_bytes_max = limits.stream_queued_bytes_max = kQueueOfSmall;
  limits.message_bytes_max = kQueueOfSmall;
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  ASSERT_TRUE(SendCall(*client_connection_, 1, kNeverTaken).ok());
  uint32_t sent = 1;
  absl::Status refused;
  while (refused.ok() && sent < 100'000) {
    refused = SendCall(*client_connection_, sent + 1, 8);
    if (refused.ok()) ++sent;
  }
  EXPECT_TRUE(IsQueueFull(refused)) << refused;
  EXPECT_GE(sent, 8000u);
  // What delivers late holds as many itself, and not always at this moment.
  ASSERT_LE(sent, GetParam().late ? 2 * kSmallMost : kSmallMost);
  ASSERT_TRUE(!client_connection_->HasRoom() || GetParam().late) << "nor for streams";

  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  ASSERT_TRUE(client_->WaitForWritable(1));
  EXPECT_TRUE(client_connection_->HasRoom());
  ASSERT_TRUE(SendCall(*client_connection_, ++sent, 8).ok());
  ASSERT_TRUE(server_->WaitForMessages(sent));
  uint32_t seen = 0;
  for (const IncomingMessage& message : server_->TakeMessages()) {
    ASSERT_EQ(message.header().call_id, ++seen);
  }
}

TEST_P(ConnectionConformance, SmallRepliesThatAreNotTakenStopTheServer) {
  Limits limits;
  limits.queued_bytes_max = limits.message_bytes_max = kQueueOfSmall;
  ConnectToEcho(limits);
  ASSERT_TRUE(SendCall(*server_connection_, 0, kNeverTaken).ok());
  // The client's Sends go on without its loop as long as they need not wait for the server.
  uint32_t sent = 0;
  do {
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(SendCall(*client_connection_, ++sent, 8).ok());
    if (sent <= 8000) {
      ASSERT_TRUE(server_->WaitForMessages(sent));
    }
  } while (sent < 40'000 && !Stays([&] { return server_->message_count() < sent; }));
  EXPECT_LE(server_->message_count(), GetParam().late ? 2 * kSmallMost : kSmallMost);

  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  ASSERT_TRUE(client_->WaitForMessages(1 + sent)) << "once they are taken it goes on";
  uint32_t seen = 0;
  for (const IncomingMessage& reply : client_->TakeMessages()) {
    ASSERT_EQ(reply.header().call_id, seen++);
  }
}

// Else a server would work for nobody, or a stream never end.
TEST_P(ConnectionConformance, ACancellationIsTakenHoweverMuchWaits) {
  Limits limits;
  limits.queued_bytes_max = limits.message_bytes_max = 1 << 20;
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  client_connection_->SetBackground(true);
  uint32_t sent = 0;
  while (SendCall(*client_connection_, sent, 32 << 10).ok()) ++sent;
  OutgoingMessage cancel = NewHeapMessage(0);
  cancel->header.type = FrameType::kCancel;
  cancel->header.call_id = 3;
  cancel->has_body = false;
  EXPECT_TRUE(client_connection_->Send(std::move(cancel)).ok());
  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  ASSERT_TRUE(server_->WaitForMessages(sent + 1));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  EXPECT_EQ(messages.back().header().type, FrameType::kCancel);
  CloseBoth();
}

TEST_P(ConnectionConformance, WhatIsTakenBackBeforeItLeftIsNotSeenByThePeer) {
  Limits limits;
  limits.queued_bytes_max = limits.message_bytes_max = 1 << 20;
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  client_ = std::make_shared<RecordingReceiver>();
  client_connection_->Start(client_);
  // Until nothing more is taken, by a peer that does not read yet.
  constexpr size_t kBytes = 32 << 10;
  uint32_t sent = 0;
  while (!Stays([&] {
    if (!SendCall(*client_connection_, sent, kBytes).ok()) return true;
    ++sent;
    return false;
  })) {
  }
  std::vector<uint32_t> left;
  std::vector<uint32_t> taken_back;
  for (uint32_t id = 0; id < sent; ++id) {
    // Five of six, and the last: what is left of a full queue is little enough for OnWritable.
    const bool wanted = id % 6 != 0 || id + 1 == sent;
    (wanted && client_connection_->Withdraw(id) ? taken_back : left).push_back(id);
  }
  for (const uint32_t id : taken_back) EXPECT_FALSE(client_connection_->Withdraw(id)) << "twice";
  EXPECT_FALSE(client_connection_->Withdraw(sent + 1)) << "was never sent";
  if (client_connection_->info().transport == "inproc" && !GetParam().late) {
    EXPECT_TRUE(taken_back.empty()) << "it is with the peer at once";
  } else {
    EXPECT_GT(taken_back.size(), 2u);
    ASSERT_TRUE(client_->WaitForWritable(1)) << "there is room again";
  }
  const bool more = SendCall(*client_connection_, sent, 8).ok();
  EXPECT_TRUE(more || taken_back.empty());
  if (more) left.push_back(sent);

  server_ = std::make_shared<RecordingReceiver>();
  server_connection_->Start(server_);
  ASSERT_TRUE(server_->WaitForMessages(left.size()));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  ASSERT_EQ(messages.size(), left.size());
  for (size_t i = 0; i < left.size(); ++i) EXPECT_EQ(messages[i].header().call_id, left[i]);
  CloseBoth();
  EXPECT_TRUE(client_->unsent().empty());
}

}  // namespace
}  // namespace mi7::transport::conformance
