// What connections cost while nothing happens on them, through the public Channel and Server: heap
// memory of this process. The other ends are plain sockets, which take none.

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/heap_testing.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/badpeer/raw_peer.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/buffer_pool.h"

namespace mi7 {
namespace {

using badpeer::RawPeer;
using conformance::kSoon;
using conformance::ProbeImpl;
using conformance::ProbeStub;

constexpr size_t kWarm = 200;
constexpr size_t kCounted = 1000;

// Buffers that all connections share go from thread to thread, and some stay with each. So many
// that none is made any more, whichever thread does what.
void FillPools() {
  std::vector<transport::BufferRef> buffers;
  for (int i = 0; i < 500; ++i) {
    buffers.push_back(transport::BufferPool::Allocate(transport::BufferPool::kKeptBytes));
    buffers.push_back(transport::BufferPool::AllocateZeroed(transport::BufferPool::kKeptBytes));
    buffers.push_back(transport::BufferPool::AllocateKept());
  }
}

class IdleMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kHeapIsCounted) {
      std::fprintf(stderr, "NOTICE: test not run, a sanitizer's allocator counts otherwise\n");
      GTEST_SKIP();
    }
    rlimit files;
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
    const rlim_t wanted = 2 * (kWarm + kCounted) + 100;
    if (files.rlim_cur < wanted) {
      files.rlim_cur = std::min(wanted, files.rlim_max);
      ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
      if (files.rlim_cur < wanted) {
        std::fprintf(stderr,
                     "NOTICE: test not run, it takes %llu descriptors and %llu are permitted\n",
                     static_cast<unsigned long long>(wanted),
                     static_cast<unsigned long long>(files.rlim_cur));
        GTEST_SKIP();
      }
    }
  }
  // Bytes that each of kCounted connections adds; `open` opens one, uses it and lets it rest.
  template <typename Open>
  static size_t BytesEach(const char* what, Open open) {
    FillPools();
    for (size_t i = 0; i < kWarm; ++i) open();
    const size_t before = HeapBytes();
    for (size_t i = 0; i < kCounted; ++i) open();
    const size_t each = (HeapBytes() - before) / kCounted;
    std::printf("%zu bytes of heap for each idle connection of a %s\n", each, what);
    RecordProperty("bytes_each", static_cast<int>(each));
    return each;
  }
};

TEST_F(IdleMemoryTest, ServerTakesAtMost1KiBAConnection) {
  ProbeImpl probe;
  ServerOptions options;
  options.event_loops = 1;
  const auto server =
      *ServerBuilder().SetOptions(options).AddService(&probe).Listen("tcp:127.0.0.1:0").Start();
  std::vector<RawPeer> peers;
  peers.reserve(kWarm + kCounted);
  const size_t each = BytesEach("server", [&] {
    peers.push_back(RawPeer::Greeted(server->endpoints()[0]));
    // It has been used: buffers would be held now if they ever were.
    peers.back().Send(badpeer::EchoCall(1));
    const std::optional<badpeer::Received> answer = peers.back().ReadMessage();
    ASSERT_TRUE(answer);
    ASSERT_THAT(answer->status(), IsOk());
  });
  EXPECT_EQ(server->connection_count(), kWarm + kCounted);
  EXPECT_LE(each, 1024u);
}

TEST_F(IdleMemoryTest, ChannelTakesAtMost1KiBAConnection) {
  badpeer::RawListener listener;
  std::vector<RawPeer> peers;
  std::vector<std::shared_ptr<Channel>> channels;
  peers.reserve(kWarm + kCounted);
  channels.reserve(kWarm + kCounted);
  const size_t each = BytesEach("channel", [&] {
    channels.push_back(*Channel::Create(listener.endpoint()));
    auto call = ProbeStub(channels.back()).Echo({.deadline = Deadline::After(kSoon)}).Send();
    peers.push_back(listener.AcceptGreeted());
    const std::optional<badpeer::Received> received = peers.back().ReadMessage();
    ASSERT_TRUE(received);
    peers.back().Send(
        badpeer::Message(badpeer::ReturnHeader(received->header.call_id), badpeer::EchoBody()));
    ASSERT_THAT(call.Wait(), IsOk());
  });
  EXPECT_LE(each, 1024u);
}

}  // namespace
}  // namespace mi7
