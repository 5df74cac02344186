#include "transport/stream/writer.h"

#include <errno.h>
#include <sys/socket.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "transport/unique_fd.h"

namespace mi7::transport {
namespace {

OutgoingMessage Finished(uint32_t call_id, size_t words = 0) {
  OutgoingMessage message = NewHeapMessage(words * 8);
  message->header.type = FrameType::kCall;
  message->header.target = TargetKind::kService;
  message->header.call_id = call_id;
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(static_cast<capnp::uint>(words * 8));
  EXPECT_TRUE(SealMessage(*message, Limits{}).ok());
  return message;
}

class WriterTest : public ::testing::Test {
 protected:
  void SetUp() override { MakeSockets(SOCK_STREAM); }
  void MakeSockets(int type) {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds), 0);
    ours_ = UniqueFd(fds[0]);
    theirs_ = UniqueFd(fds[1]);
  }
  // What one read gives at most.
  std::string Read(size_t most = 1 << 20) {
    std::string bytes(most, '\0');
    const ssize_t got = ::recv(theirs_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    bytes.resize(got > 0 ? static_cast<size_t>(got) : 0);
    return bytes;
  }
  UniqueFd ours_;
  UniqueFd theirs_;
  Writer writer_;
};

TEST_F(WriterTest, LoneMessageIsWrittenAtOnce) {
  OutgoingMessage message = Finished(1, 4);
  const size_t bytes = message->header.size;
  ASSERT_EQ(writer_.Add(message, false, 100), Writer::Added::kWrite);
  const auto result = writer_.Write(ours_.get(), std::move(message));
  EXPECT_EQ(result.outcome, Writer::Result::kDone);
  EXPECT_TRUE(result.wrote);
  EXPECT_EQ(Read().size(), bytes);
}

// A thread-local object that was made before the thread's scratch space is gone after it; on the
// main thread static objects are.
TEST_F(WriterTest, WritesWhileItsThreadEnds) {
  struct Late {
    std::function<void()> write;
    ~Late() { write(); }
  };
  size_t bytes = 0;
  const auto write = [&](uint32_t count) {
    for (uint32_t id = 0; id < count; ++id) {
      OutgoingMessage message = Finished(id, 100);  // a piece each
      bytes += message->header.size;
      ASSERT_EQ(writer_.Add(message, true, UINT64_MAX), Writer::Added::kQueued);
    }
    EXPECT_EQ(writer_.Flush(ours_.get()).outcome, Writer::Result::kDone);
  };
  std::thread([&] {
    static thread_local Late late;
    late.write = [&] { write(50); };
    write(1);
  }).join();
  EXPECT_EQ(Read().size(), bytes);
}

TEST_F(WriterTest, HeldBackMessagesGoTogetherInOrder) {
  size_t bytes = 0;
  for (uint32_t id = 0; id < 200; ++id) {
    OutgoingMessage message = Finished(id, id % 5);
    bytes += message->header.size;
    ASSERT_EQ(writer_.Add(message, true, UINT64_MAX), Writer::Added::kQueued);
  }
  EXPECT_EQ(Read(), "");
  EXPECT_EQ(writer_.queued().bytes, bytes);
  EXPECT_EQ(writer_.Flush(ours_.get()).outcome, Writer::Result::kDone);
  EXPECT_EQ(writer_.queued().weight(), 0u);
  std::string stream;
  for (std::string part; !(part = Read()).empty();) stream += part;
  ASSERT_EQ(stream.size(), bytes);
  size_t at = 0;
  for (uint32_t id = 0; id < 200; ++id) {
    FrameHeader header;
    std::memcpy(&header, stream.data() + at, sizeof(header));
    ASSERT_EQ(header.call_id, id);
    at += header.size;
  }
}

// On sockets that keep what one system call wrote together, so that a read gives just that.
class WriterCallsTest : public WriterTest {
 protected:
  void SetUp() override { MakeSockets(SOCK_SEQPACKET); }
};

TEST_F(WriterCallsTest, AMessageOfSeveralSegmentsTakesOneSystemCall) {
  OutgoingMessage message = NewHeapMessage(0);
  message->header.type = FrameType::kCall;
  message->header.target = TargetKind::kService;
  auto parts = message->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(4);
  static const std::vector<capnp::word> outside(100);
  for (uint32_t i = 0; i < parts.size(); ++i) {
    const capnp::Data::Reader part(reinterpret_cast<const kj::byte*>(outside.data()), 8 * (i + 97));
    parts.adopt(i, message->getOrphanage().referenceExternalData(part));
  }
  ASSERT_TRUE(SealMessage(*message, Limits{}).ok());
  ASSERT_GE(message->Segments().size(), 5u);
  const size_t bytes = message->header.size;
  ASSERT_EQ(writer_.Add(message, false, 100), Writer::Added::kWrite);
  ASSERT_EQ(writer_.Write(ours_.get(), std::move(message)).outcome, Writer::Result::kDone);
  EXPECT_EQ(Read().size(), bytes);
  EXPECT_EQ(Read(), "");
}

TEST_F(WriterCallsTest, MessagesThatWereHeldBackTakeOneSystemCall) {
  size_t bytes = 0;
  for (uint32_t id = 0; id < 64; ++id) {
    OutgoingMessage message = Finished(id, id % 5);
    bytes += message->header.size;
    ASSERT_EQ(writer_.Add(message, true, UINT64_MAX), Writer::Added::kQueued);
  }
  ASSERT_EQ(writer_.Flush(ours_.get()).outcome, Writer::Result::kDone);
  EXPECT_EQ(Read().size(), bytes);
  EXPECT_EQ(Read(), "");
}

TEST_F(WriterTest, AnotherThreadsSendFlushesWhatIsHeldBack) {
  OutgoingMessage held = Finished(1);
  ASSERT_EQ(writer_.Add(held, true, UINT64_MAX), Writer::Added::kQueued);
  OutgoingMessage other = Finished(2);
  EXPECT_EQ(writer_.Add(other, false, UINT64_MAX), Writer::Added::kFlush);
  writer_.Flush(ours_.get());
  EXPECT_EQ(writer_.queued().weight(), 0u);
}

TEST_F(WriterTest, FullSocketKeepsTheRestAndResumesWhereItStopped) {
  OutgoingMessage large = Finished(1, 1 << 17);  // 1 MiB: more than the socket takes
  const size_t large_bytes = large->header.size;
  ASSERT_EQ(writer_.Add(large, false, 100), Writer::Added::kWrite);
  auto result = writer_.Write(ours_.get(), std::move(large));
  ASSERT_EQ(result.outcome, Writer::Result::kBlocked);
  EXPECT_TRUE(writer_.blocked());
  OutgoingMessage second = Finished(2, 1);
  const size_t second_bytes = second->header.size;
  EXPECT_EQ(writer_.Add(second, false, 100), Writer::Added::kFull) << "something is queued";
  EXPECT_TRUE(second) << "a refused message is untouched";
  EXPECT_EQ(writer_.Add(second, false, 10u << 20), Writer::Added::kQueued);
  EXPECT_EQ(writer_.queued().messages, 2u);
  writer_.WantRoom();
  const Limits limits = {.stream_queued_bytes_max = 2000};
  EXPECT_FALSE(writer_.TakeRoom(limits));
  EXPECT_EQ(writer_.Flush(ours_.get()).wrote, false) << "nobody but Resume tries";

  size_t received = 0;
  while (received < large_bytes + second_bytes) {
    received += Read(100'000).size();
    writer_.Resume(ours_.get());
  }
  EXPECT_EQ(received, large_bytes + second_bytes);
  EXPECT_EQ(writer_.queued().weight(), 0u);
  EXPECT_TRUE(writer_.TakeRoom(limits));
  EXPECT_FALSE(writer_.TakeRoom(limits)) << "told once";
}

// However small a message is, the block that it lies in is not.
TEST_F(WriterTest, EachMessageCountsWithItsBlock) {
  constexpr uint64_t kBlock = Queued::kMessageBytesLeast;
  Limits limits;
  limits.queued_bytes_max = 10 * kBlock;
  for (uint32_t id = 0; id < 10; ++id) {
    EXPECT_FALSE(writer_.Full(limits.queued_bytes_max)) << id;
    EXPECT_TRUE(writer_.queued().HasRoom(limits)) << id;
    OutgoingMessage message = Finished(id);
    ASSERT_EQ(writer_.Add(message, true, limits.queued_bytes_max), Writer::Added::kQueued);
    EXPECT_EQ(writer_.queued().weight(), (id + 1) * kBlock);
  }
  EXPECT_TRUE(writer_.Full(limits.queued_bytes_max));
  EXPECT_FALSE(writer_.queued().HasRoom(limits));
  OutgoingMessage refused = Finished(10);
  EXPECT_EQ(writer_.Add(refused, true, limits.queued_bytes_max), Writer::Added::kFull);

  // Half of it is taken back, and another one comes.
  writer_.WantRoom();
  for (uint32_t id = 0; id < 4; ++id) ASSERT_TRUE(writer_.Withdraw(id));
  EXPECT_FALSE(writer_.TakeRoom(limits));
  ASSERT_TRUE(writer_.Withdraw(4));
  EXPECT_TRUE(writer_.TakeRoom(limits));
  EXPECT_EQ(writer_.queued().weight(), 5 * kBlock);
  MessageBody* const chain = refused.release();
  chain->next = nullptr;
  const Queued count = {.bytes = chain->header.size, .messages = 1};
  EXPECT_TRUE(writer_.WriteChain(ours_.get(), chain, chain, count).wrote);
  EXPECT_EQ(writer_.queued().weight(), 0u);
  EXPECT_EQ(writer_.queued().bytes, 0u);
}

TEST_F(WriterTest, SmallMessagesThatAFullSocketCutsGoOnWhereTheyStopped) {
  const int little = 1;  // the least that the system has
  ASSERT_EQ(::setsockopt(ours_.get(), SOL_SOCKET, SO_SNDBUF, &little, sizeof(little)), 0);
  std::string expected;
  for (uint32_t id = 0; id < 500; ++id) {
    OutgoingMessage message = Finished(id, id % 7);
    PieceList pieces;
    AppendPieces(*message, pieces);
    for (const ByteSpan& piece : pieces) {
      expected.append(reinterpret_cast<const char*>(piece.data), piece.size);
    }
    ASSERT_EQ(writer_.Add(message, true, UINT64_MAX), Writer::Added::kQueued);
  }
  ASSERT_EQ(writer_.Flush(ours_.get()).outcome, Writer::Result::kBlocked);

  std::string received;
  while (received.size() < expected.size()) {
    const std::string part = Read(777);
    ASSERT_NE(part, "") << received.size();
    received += part;
    // What this thread keeps to write with is used for another connection meanwhile.
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    const UniqueFd near(fds[0]), far(fds[1]);
    Writer other;
    for (uint32_t id = 1000; id < 1064; ++id) {
      OutgoingMessage message = Finished(id, 3);
      ASSERT_EQ(other.Add(message, true, UINT64_MAX), Writer::Added::kQueued);
    }
    ASSERT_EQ(other.Flush(near.get()).outcome, Writer::Result::kDone);
    writer_.Resume(ours_.get());
  }
  EXPECT_TRUE(received == expected);
  EXPECT_EQ(writer_.queued().weight(), 0u);
}

TEST_F(WriterTest, CloseGivesBackWhatWasNotBegun) {
  OutgoingMessage large = Finished(1, 1 << 17);
  ASSERT_EQ(writer_.Add(large, false, 100), Writer::Added::kWrite);
  writer_.Write(ours_.get(), std::move(large));
  for (uint32_t id = 2; id < 4; ++id) {
    OutgoingMessage message = Finished(id);
    ASSERT_EQ(writer_.Add(message, false, 10u << 20), Writer::Added::kQueued);
  }
  MessageBody* unsent = nullptr;
  ASSERT_TRUE(writer_.Close(unsent));
  std::vector<uint32_t> ids;
  while (unsent != nullptr) {
    OutgoingMessage message(std::exchange(unsent, unsent->next));
    ids.push_back(message->header.call_id);
  }
  EXPECT_EQ(ids, (std::vector<uint32_t>{2, 3})) << "the first was partly written";
  OutgoingMessage late = Finished(9);
  EXPECT_EQ(writer_.Add(late, false, 100), Writer::Added::kClosed);
}

TEST_F(WriterTest, BrokenSocketIsReportedWithoutASignal) {
  theirs_.reset();
  OutgoingMessage message = Finished(1);
  ASSERT_EQ(writer_.Add(message, false, 100), Writer::Added::kWrite);
  const auto result = writer_.Write(ours_.get(), std::move(message));
  EXPECT_EQ(result.outcome, Writer::Result::kFailed);
  EXPECT_EQ(result.error, EPIPE);
  MessageBody* unsent = nullptr;
  ASSERT_TRUE(writer_.Close(unsent));
  ASSERT_NE(unsent, nullptr) << "not a byte of it was written";
  OutgoingMessage back(unsent);
  EXPECT_EQ(back->header.call_id, 1u);
}

}  // namespace
}  // namespace mi7::transport
