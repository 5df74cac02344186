// What a peer can get wrong, one thing at a time: exactly what becomes of it, and that nothing of
// the connection is left.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/shm_hostile/guard_pages.h"
#include "tests/shm_hostile/hostile_peer.h"
#include "tests/shm_hostile/malformed_cases.h"

namespace mi7::shm_hostile {
namespace {

using ::testing::HasSubstr;
using transport::EventLoop;
using transport::UniqueFd;
using transport::shm::Form;
using Event = Witness::Event;

// A socket into which wakeups are written before anything is read; -1: none.
std::atomic<int> flooded_socket{-1};

class Malformed : public ::testing::TestWithParam<std::tuple<MalformedCase, bool>> {};

TEST_P(Malformed, EndsAsSaidAndLeavesNothing) {
  const auto& [tested, trusted] = GetParam();
  auto loop = EventLoop::Create({});
  ASSERT_TRUE(loop.ok());
  Fence(loop->get());
  const size_t descriptors = OpenDescriptors();
  const size_t mappings = GuardedMappings();
  {
    PeerOptions options;
    options.trusted = trusted;
    options.limits.segments_max = 3;
    HostilePeer peer(loop->get(), options);
    tested.act(peer);
    const Event event = peer.witness().Next();
    EXPECT_EQ(event.kind, tested.kind) << event.status;
    EXPECT_EQ(event.status.code(), tested.code) << event.status;
    EXPECT_THAT(std::string(event.status.message()), HasSubstr(tested.why));
    if (event.kind != Event::kClosed) {
      // The stream goes on, and slots that were resolved are the peer's again.
      ASSERT_TRUE(peer.Put(Sound()));
      peer.Ring();
      EXPECT_EQ(peer.witness().Next().kind, Event::kMessage);
    }
  }
  EXPECT_EQ(OpenDescriptors(), descriptors);
  EXPECT_EQ(GuardedMappings(), mappings);
}

std::string NameOf(const ::testing::TestParamInfo<std::tuple<MalformedCase, bool>>& info) {
  return std::get<0>(info.param).name + (std::get<1>(info.param) ? "Trusted" : "Untrusted");
}

INSTANTIATE_TEST_SUITE_P(Records, Malformed,
                         ::testing::Combine(::testing::ValuesIn(RecordCases()), ::testing::Bool()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Socket, Malformed,
                         ::testing::Combine(::testing::ValuesIn(SocketCases()), ::testing::Bool()),
                         NameOf);
INSTANTIATE_TEST_SUITE_P(Harmless, Malformed,
                         ::testing::Combine(::testing::ValuesIn(HarmlessCases()),
                                            ::testing::Bool()),
                         NameOf);

TEST(TooLarge, WhatIsRefusedIsReleased) {
  auto loop = EventLoop::Create({});
  ASSERT_TRUE(loop.ok());
  for (const auto& [form, words] :
       {std::pair{Form::kSegments, std::vector<uint64_t>{Describe(2, 1, 0)}},
        {Form::kStream, {Describe(2, 1, 0)}},
        // Its second word is content, and not a descriptor.
        {Form::kFirstInline, {1, Describe(2, 2, 0), Describe(2, 1, 0)}}}) {
    SCOPED_TRACE(static_cast<int>(form));
    HostilePeer peer(loop->get(), PeerOptions{});
    Pieces(form, 128u << 20, words)(peer);
    EXPECT_EQ(peer.witness().Next().kind, Event::kRejected);
    EXPECT_EQ(peer.theirs().released[0].load(), 1u << 1);
  }
}

// The peer could give huge pages back, whereupon reading them would be fatal when there are none.
TEST(HugePages, AreRefused) {
  constexpr uint64_t kHuge = 2u << 20;
  const UniqueFd fd(Memory(kHuge, F_SEAL_SHRINK | F_SEAL_GROW, MFD_HUGETLB));
  if (!fd) {
    std::fprintf(stderr, "NOTICE: test not run, this system has no huge pages of 2 MiB\n");
    GTEST_SKIP();
  }
  const auto mapped = transport::shm::MapPeerMemory(fd, kHuge, /*for_good=*/false);
  EXPECT_EQ(mapped.status().code(), absl::StatusCode::kInvalidArgument) << mapped.status();
  EXPECT_THAT(std::string(mapped.status().message()), HasSubstr("ordinary pages"));
}

// Sound, but without end: whenever the socket is read there is more in it. The loop belongs to
// others as well.
TEST(Flood, OfWakeupsStallsNobody) {
  auto loop = EventLoop::Create({});
  ASSERT_TRUE(loop.ok());
  HostilePeer peer(loop->get(), {});
  flooded_socket.store(peer.socket());
  peer.SendByte(transport::shm::kWakeByte);
  for (int i = 0; i < 20; ++i) {
    Fence(loop->get());
    ASSERT_TRUE(peer.Put(Sound()));
    EXPECT_EQ(peer.witness().Next().kind, Event::kMessage);
  }
  flooded_socket.store(-1);
}

}  // namespace
}  // namespace mi7::shm_hostile

// In place of the C library's: a flood that is never behind.
extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
  if (const int flooded = mi7::shm_hostile::flooded_socket.load(); flooded >= 0) {
    static const uint8_t kWakeups[4096] = {};
    static_cast<void>(!::send(flooded, kWakeups, sizeof(kWakeups), MSG_DONTWAIT | MSG_NOSIGNAL));
  }
  return ::syscall(SYS_recvmsg, fd, message, flags);
}
