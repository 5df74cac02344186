// Messages arrive whole, in order, and stay readable for as long as they are kept.

#include <algorithm>
#include <random>
#include <thread>

#include <capnp/any.h>
#include <capnp/message.h>

#include "tests/conformance/connection_conformance.h"
#include "transport/buffer_pool.h"
#include "transport/for_overwrite.h"

namespace mi7::transport::conformance {
namespace {

// Sizes around every boundary there is: words, pooled blocks, receive buffers, mapped buffers.
const size_t kSizes[] = {
    0,        1,     7,     8,     9,      63,     64,     100,      1000,           3000,
    3200,     3328,  3400,  4095,  4096,   4097,   8191,   65407,    65408,          65471,
    65472,    65473, 65536, 65537, 131072, 131073, 200000, 1u << 20, (1u << 20) + 8, 5000000,
    16u << 20};

TEST_P(ConnectionConformance, MessagesOfEverySizeArriveWholeAndInOrder) {
  ConnectAndStart();
  uint32_t call_id = 0;
  for (const size_t size : kSizes) {
    ASSERT_TRUE(SendCall(*client_connection_, ++call_id, size).ok());
    // The other direction at the same time.
    ASSERT_TRUE(SendCall(*server_connection_, call_id, size).ok());
  }
  client_connection_->SetBackground(true);
  ASSERT_TRUE(server_->WaitForMessages(std::size(kSizes)));
  ASSERT_TRUE(client_->WaitForMessages(std::size(kSizes)));
  for (const auto& receiver : {server_, client_}) {
    const std::vector<IncomingMessage> messages = receiver->TakeMessages();
    ASSERT_EQ(messages.size(), std::size(kSizes));
    for (size_t i = 0; i < messages.size(); ++i) {
      EXPECT_TRUE(IsCall(messages[i], static_cast<uint32_t>(i + 1), kSizes[i]));
    }
  }
}

// Each is followed by one of the same size that nobody writes to: what it has is what Cap'n Proto
// was given as zero.
TEST_P(ConnectionConformance, ContentInMemoryThatWasNotClearedArrivesWhole) {
  ConnectAndStart();
  client_connection_->SetBackground(true);
  uint32_t call_id = 0;
  for (int turn = 0; turn < 3; ++turn) {
    for (const size_t size : kSizes) {
      ++call_id;
      {
        const ForOverwrite scope;
        ASSERT_TRUE(SendCall(*client_connection_, call_id, size).ok());
      }
      absl::StatusOr<OutgoingMessage> unwritten = client_connection_->Reserve(size);
      ASSERT_TRUE(unwritten.ok()) << unwritten.status();
      (*unwritten)->header = {
          .type = FrameType::kCall, .target = TargetKind::kService, .call_id = ++call_id};
      (*unwritten)
          ->getRoot<capnp::AnyPointer>()
          .initAs<capnp::Data>(static_cast<capnp::uint>(size));
      ASSERT_TRUE(client_connection_->Send(*std::move(unwritten)).ok());
      ASSERT_TRUE(server_->WaitForMessages(call_id));
      std::vector<IncomingMessage> messages;
      while (messages.size() < 2) {
        for (IncomingMessage& message : server_->TakeMessages()) {
          messages.push_back(std::move(message));
        }
      }
      EXPECT_TRUE(IsCall(messages[0], call_id - 1, size));
      EXPECT_EQ(messages[1].header().call_id, call_id);
      EXPECT_TRUE(BodyOf(messages[1]) == std::string(size, '\0')) << size;
    }
  }
}

TEST_P(ConnectionConformance, ManySmallMessagesBothWaysKeepTheirOrder) {
  ConnectAndStart();
  client_connection_->SetBackground(true);
  constexpr uint32_t kCount = 5000;
  const auto send = [](Connection& connection) {
    for (uint32_t i = 1; i <= kCount; ++i) EXPECT_TRUE(SendCall(connection, i, i % 200).ok());
  };
  std::thread server_sends(send, std::ref(*server_connection_));
  send(*client_connection_);
  server_sends.join();
  for (const auto& receiver : {server_, client_}) {
    ASSERT_TRUE(receiver->WaitForMessages(kCount));
    const std::vector<IncomingMessage> messages = receiver->TakeMessages();
    ASSERT_EQ(messages.size(), kCount);
    for (uint32_t i = 1; i <= kCount; ++i) ASSERT_TRUE(IsCall(messages[i - 1], i, i % 200));
  }
}

TEST_P(ConnectionConformance, HeaderAndExtraPartTravelUnchanged) {
  ConnectAndStart();
  std::vector<std::byte> extra(64);
  for (const size_t size : {size_t{0}, size_t{8}, size_t{208}, size_t{216}, size_t{224},
                            size_t{4096}, size_t{64} << 10}) {
    extra.resize(size);
    for (size_t i = 0; i < size; ++i) extra[i] = static_cast<std::byte>(i * 3 + size);
    OutgoingMessage message = NewCall(*client_connection_, 77, 100);
    message->header.target = TargetKind::kPromisedAnswer;
    message->header.code = 0xABCD;
    message->header.timeout = 0x80000001;
    message->header.interface_id = 0xFEDCBA9876543210;
    message->header.target_id = 0xFFFFFFFF;
    message->SetExtra(extra);
    ASSERT_TRUE(client_connection_->Send(std::move(message)).ok());
    ASSERT_TRUE(server_->WaitForMessages(1));
    std::vector<IncomingMessage> messages;
    while (messages.empty()) messages = server_->TakeMessages();
    const FrameHeader& header = messages[0].header();
    EXPECT_EQ(header.type, FrameType::kCall);
    EXPECT_EQ(header.target, TargetKind::kPromisedAnswer);
    EXPECT_EQ(header.code, 0xABCD);
    EXPECT_EQ(header.call_id, 77u);
    EXPECT_EQ(header.timeout, 0x80000001u);
    EXPECT_EQ(header.interface_id, 0xFEDCBA9876543210u);
    EXPECT_EQ(header.target_id, 0xFFFFFFFFu);
    EXPECT_EQ(header.extra_size, size);
    // The header, the extra part, the table, the root pointer, and the Data.
    EXPECT_EQ(header.size, 32 + size + 8 + 8 + 104);
    EXPECT_TRUE(std::ranges::equal(messages[0].extra(), extra));
    EXPECT_TRUE(IsCall(messages[0], 77, 100));
  }
}

TEST_P(ConnectionConformance, MessageWithoutBodyArrives) {
  ConnectAndStart();
  for (const bool with_extra : {false, true}) {
    absl::StatusOr<OutgoingMessage> message = client_connection_->Reserve(0);
    ASSERT_TRUE(message.ok());
    (*message)->header.type = FrameType::kReturn;
    (*message)->header.code = 5;
    (*message)->header.call_id = 9;
    (*message)->has_body = false;
    const std::byte extra[16] = {std::byte{1}};
    if (with_extra) (*message)->SetExtra(extra);
    ASSERT_TRUE(client_connection_->Send(*std::move(message)).ok());
  }
  ASSERT_TRUE(server_->WaitForMessages(2));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  EXPECT_EQ(messages[0].header().size, 32u);
  EXPECT_FALSE(messages[0].has_body());
  EXPECT_TRUE(messages[0].extra().empty());
  EXPECT_EQ(messages[1].header().size, 48u);
  EXPECT_FALSE(messages[1].has_body());
  EXPECT_EQ(messages[1].extra().size(), 16u);
}

TEST_P(ConnectionConformance, BodyWhoseRootWasNeverSetIsANullPointer) {
  ConnectAndStart();
  absl::StatusOr<OutgoingMessage> message = client_connection_->Reserve(0);
  ASSERT_TRUE(message.ok());
  (*message)->header.type = FrameType::kReturn;
  ASSERT_TRUE(client_connection_->Send(*std::move(message)).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  ASSERT_TRUE(messages[0].has_body());
  EXPECT_EQ(BodyOf(messages[0]), "");
}

TEST_P(ConnectionConformance, MessageThatOutgrowsItsReservationArrives) {
  ConnectAndStart();
  constexpr uint32_t kParts = 100;
  absl::StatusOr<OutgoingMessage> message = client_connection_->Reserve(1);
  ASSERT_TRUE(message.ok());
  (*message)->header.type = FrameType::kReturn;
  auto list = (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Text>>(kParts);
  for (uint32_t i = 0; i < kParts; ++i) list.set(i, std::string(i * 100, 'a' + i % 26));
  ASSERT_GT((*message)->getSegmentsForOutput().size(), 2u);
  ASSERT_TRUE(client_connection_->Send(*std::move(message)).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  capnp::SegmentArrayMessageReader reader(
      {messages[0].segments().data(), messages[0].segments().size()});
  const auto received = reader.getRoot<capnp::AnyPointer>().getAs<capnp::List<capnp::Text>>();
  ASSERT_EQ(received.size(), kParts);
  for (uint32_t i = 0; i < kParts; ++i) {
    EXPECT_EQ(received[i], std::string(i * 100, 'a' + i % 26).c_str()) << i;
  }
}

TEST_P(ConnectionConformance, MessageOfAsManySegmentsAsAllowedArrives) {
  ConnectAndStart();
  // Segments that the sender did not allocate: Cap'n Proto refers to them where they are. (Empty
  // ones it cannot read.)
  static const std::vector<capnp::word> outside(64);
  const uint32_t parts = Limits{}.segments_max - 1;
  absl::StatusOr<OutgoingMessage> message = client_connection_->Reserve(64 << 10);
  ASSERT_TRUE(message.ok());
  (*message)->header.type = FrameType::kReturn;
  auto list = (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(parts);
  for (uint32_t i = 0; i < parts; ++i) {
    const capnp::Data::Reader part(reinterpret_cast<const kj::byte*>(outside.data()),
                                   8 * (1 + i % 63));
    list.adopt(i, (*message)->getOrphanage().referenceExternalData(part));
  }
  ASSERT_TRUE(client_connection_->Send(*std::move(message)).ok());
  ASSERT_TRUE(server_->WaitForMessages(1));
  const std::vector<IncomingMessage> messages = server_->TakeMessages();
  capnp::SegmentArrayMessageReader reader(
      {messages[0].segments().data(), messages[0].segments().size()});
  const auto received = reader.getRoot<capnp::AnyPointer>().getAs<capnp::List<capnp::Data>>();
  ASSERT_EQ(received.size(), parts);
  for (uint32_t i = 0; i < parts; ++i) EXPECT_EQ(received[i].size(), 8 * (1 + i % 63)) << i;
}

TEST_P(ConnectionConformance, HeapMessagesAreAcceptedAsTheyAre) {
  ConnectAndStart();
  OutgoingMessage message = NewHeapMessage(500);
  FillCall(*message, 3, 500);
  ASSERT_TRUE(client_connection_->Send(std::move(message)).ok());
  EXPECT_FALSE(message) << "Send consumes the message";
  ASSERT_TRUE(server_->WaitForMessages(1));
  EXPECT_TRUE(IsCall(server_->TakeMessages()[0], 3, 500));
}

TEST_P(ConnectionConformance, ReusedMemoryIsZeroedForTheNextMessage) {
  ConnectAndStart();
  for (uint32_t i = 0; i < 200; ++i) {
    const size_t bytes = (i * 7919) % 20000;
    OutgoingMessage message = NewCall(*client_connection_, i, bytes);
    ASSERT_TRUE(client_connection_->Send(std::move(message)).ok());
    ASSERT_TRUE(server_->WaitForMessages(i + 1));
    server_->TakeMessages().clear();
    // What was filled is recycled by now or soon; a fresh list must read as zeros all the same.
    OutgoingMessage fresh = NewHeapMessage(bytes);
    auto list = fresh->getRoot<capnp::AnyPointer>().initAs<capnp::List<uint8_t>>(
        static_cast<capnp::uint>(bytes));
    for (size_t at = 0; at < bytes; ++at) ASSERT_EQ(list[at], 0) << "byte " << at << " of " << i;
  }
}

TEST_P(ConnectionConformance, ViewsStayValidAfterTheConnectionAndTheLoopsAreGone) {
  ConnectAndStart();
  const size_t sizes[] = {10, 100, 5000, 70000, 300, 1u << 20, 0, 20};
  uint32_t call_id = 0;
  for (int round = 0; round < 20; ++round) {
    for (const size_t size : sizes) {
      ASSERT_TRUE(SendCall(*client_connection_, ++call_id, size).ok());
    }
  }
  ASSERT_TRUE(server_->WaitForMessages(call_id));
  std::vector<IncomingMessage> messages = server_->TakeMessages();
  TearDown();
  for (uint32_t id = 1; id <= call_id; ++id) {
    EXPECT_TRUE(IsCall(messages[id - 1], id, sizes[(id - 1) % std::size(sizes)]));
  }
  // In any order, on other threads.
  std::mt19937 random(7);
  std::shuffle(messages.begin(), messages.end(), random);
  std::vector<std::thread> releasers;
  const size_t part = messages.size() / 4;
  for (size_t i = 0; i < 4; ++i) {
    releasers.emplace_back([&messages, i, part] {
      for (size_t at = i * part; at < (i + 1) * part; ++at) messages[at].reset();
    });
  }
  for (std::thread& thread : releasers) thread.join();
}

TEST_P(ConnectionConformance, ReleasedWhileMoreArriveMessagesKeepTheirContent) {
  // Keeps every seventh message until much later.
  std::vector<IncomingMessage> kept;
  uint32_t seen = 0;
  ConnectAndStart([&](IncomingMessage message) {
    ++seen;
    EXPECT_TRUE(IsCall(message, seen, (seen * 37) % 3000));
    if (seen % 7 == 0) kept.push_back(std::move(message));
  });
  constexpr uint32_t kCount = 3000;
  for (uint32_t i = 1; i <= kCount; ++i) {
    ASSERT_TRUE(SendCall(*client_connection_, i, (i * 37) % 3000).ok());
  }
  ASSERT_TRUE(server_->WaitForMessages(kCount));
  CloseBoth();
  ASSERT_EQ(kept.size(), kCount / 7);
  for (size_t i = 0; i < kept.size(); ++i) {
    const uint32_t id = static_cast<uint32_t>(7 * (i + 1));
    EXPECT_TRUE(IsCall(kept[i], id, (id * 37) % 3000));
  }
}

TEST_P(ConnectionConformance, LargeMessagesBothWaysAtOnceDoNotBlockEachOther) {
  ConnectToEcho();
  const std::shared_ptr<Caller> caller = StartCaller();
  std::vector<std::thread> callers;
  for (uint32_t thread = 1; thread <= 2; ++thread) {
    callers.emplace_back([&, thread] {
      for (uint32_t i = 0; i < 2; ++i) {
        EXPECT_TRUE(caller->Echo(*client_connection_, thread * 10 + i, 8u << 20));
      }
    });
  }
  for (std::thread& thread : callers) thread.join();
}

}  // namespace
}  // namespace mi7::transport::conformance
