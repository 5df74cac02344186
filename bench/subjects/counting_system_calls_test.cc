// What this program calls is counted, one for one.

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "bench/harness/subject.h"
#include "bench/subjects/counting.h"
#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

struct CountedCall {
  const char* name;
  std::function<void()> call;
  uint64_t wakes = 0;
  uint64_t sends = 0;
};

class CountingSystemCallsTest : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizers have functions of their own";
#endif
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends_), 0);
    event_ = ::eventfd(0, EFD_NONBLOCK);
    epoll_ = ::epoll_create1(0);
    memory_ = ::memfd_create("counted", 0);
    ASSERT_TRUE(event_ >= 0 && epoll_ >= 0 && memory_ >= 0);
    count_in(&counts_);
  }
  void TearDown() override {
    if (count_in != nullptr) count_in(&counts_before_anybody_asks);
    for (int fd : {ends_[0], ends_[1], event_, epoll_, memory_}) ::close(fd);
  }

  // Every function that is counted, called once.
  std::vector<CountedCall> Everything() {
    return {
        {"syscall", [] { ::syscall(SYS_getppid); }},
        {"syscall", [this] { ::syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1); }, 1},
        {"syscall", [this] { ::syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 1, nullptr); }},
        {"syscall", [this] { ::syscall(SYS_sendto, ends_[0], &word_, 4, 0, nullptr, 0); }, 1, 1},
        {"fcntl", [this] { EXPECT_NE(::fcntl(event_, F_GETFL), -1); }},
        {"write", [this] { EXPECT_EQ(::write(event_, &eight_, 8), 8); }, 1},
        {"read", [this] { EXPECT_EQ(::read(event_, &eight_, 8), 8); }},
        {"writev", [this] { EXPECT_EQ(::writev(ends_[0], &piece_, 1), 4); }, 1},
        {"readv", [this] { EXPECT_EQ(::readv(ends_[1], &piece_, 1), 4); }},
        {"send", [this] { EXPECT_EQ(::send(ends_[0], &word_, 4, 0), 4); }, 1, 1},
        {"recv", [this] { EXPECT_EQ(::recv(ends_[1], &word_, 4, 0), 4); }},
        {"sendmsg", [this] { EXPECT_EQ(::sendmsg(ends_[0], &message_, 0), 4); }, 1, 1},
        {"recvmsg", [this] { EXPECT_EQ(::recvmsg(ends_[1], &message_, 0), 4); }},
        {"setsockopt",
         [this] {
           const int size = 8192;
           EXPECT_EQ(::setsockopt(ends_[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
         }},
        {"getsockopt",
         [this] {
           int error = 0;
           socklen_t size = sizeof(error);
           EXPECT_EQ(::getsockopt(ends_[0], SOL_SOCKET, SO_ERROR, &error, &size), 0);
         }},
        {"shutdown", [this] { EXPECT_EQ(::shutdown(ends_[0], SHUT_RD), 0); }},
        {"socket", [this] { socket_ = ::socket(AF_UNIX, SOCK_DGRAM, 0); }},
        {"close", [this] { EXPECT_EQ(::close(socket_), 0); }},
        {"epoll_ctl",
         [this] {
           epoll_event event = {.events = EPOLLIN, .data = {}};
           EXPECT_EQ(::epoll_ctl(epoll_, EPOLL_CTL_ADD, event_, &event), 0);
         }},
        {"epoll_wait", [this] { EXPECT_EQ(::epoll_wait(epoll_, &event_seen_, 1, 0), 0); }},
        {"epoll_pwait",
         [this] { EXPECT_EQ(::epoll_pwait(epoll_, &event_seen_, 1, 0, nullptr), 0); }},
        // An older kernel does not know it.
        {"epoll_pwait2", [this] { ::epoll_pwait2(epoll_, &event_seen_, 1, &no_time_, nullptr); }},
        {"poll", [] { EXPECT_EQ(::poll(nullptr, 0, 0), 0); }},
        {"ppoll", [this] { EXPECT_EQ(::ppoll(nullptr, 0, &no_time_, nullptr), 0); }},
        // For no time at all.
        {"nanosleep", [this, call = &::nanosleep] { EXPECT_EQ(call(&no_time_, nullptr), 0); }},
        {"clock_nanosleep",
         [this, call = &::clock_nanosleep] {
           EXPECT_EQ(call(CLOCK_MONOTONIC, 0, &no_time_, nullptr), 0);
         }},
        {"sched_yield", [] { EXPECT_EQ(::sched_yield(), 0); }},
        {"sched_getaffinity",
         [] {
           cpu_set_t cpus;
           EXPECT_EQ(::sched_getaffinity(0, sizeof(cpus), &cpus), 0);
         }},
        {"getrusage",
         [] {
           rusage usage;
           EXPECT_EQ(::getrusage(RUSAGE_THREAD, &usage), 0);
         }},
        {"getpid", [] { EXPECT_GT(::getpid(), 0); }},
        {"fallocate", [this] { EXPECT_EQ(::fallocate(memory_, 0, 0, kPage), 0); }},
        {"mmap",
         [this] {
           page_ = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, memory_, 0);
           EXPECT_NE(page_, MAP_FAILED);
         }},
        {"madvise", [this] { EXPECT_EQ(::madvise(page_, kPage, MADV_WILLNEED), 0); }},
        {"munmap", [this] { EXPECT_EQ(::munmap(page_, kPage), 0); }},
    };
  }

  static constexpr size_t kPage = 4096;
  Counts counts_ = {};
  int ends_[2] = {-1, -1};
  int event_ = -1;
  int epoll_ = -1;
  int memory_ = -1;
  int socket_ = -1;
  void* page_ = nullptr;
  uint32_t word_ = 0;
  uint64_t eight_ = 1;
  iovec piece_ = {&word_, sizeof(word_)};
  msghdr message_ = {.msg_name = nullptr,
                     .msg_namelen = 0,
                     .msg_iov = &piece_,
                     .msg_iovlen = 1,
                     .msg_control = nullptr,
                     .msg_controllen = 0,
                     .msg_flags = 0};
  epoll_event event_seen_ = {};
  timespec no_time_ = {};
};

TEST_F(CountingSystemCallsTest, EachCallCountsOnce) {
  for (const CountedCall& counted : Everything()) {
    const uint64_t calls = counts_.system_calls;
    const uint64_t wakes = counts_.wakes;
    const uint64_t futex_wakes = counts_.futex_wakes;
    counted.call();
    EXPECT_EQ(counts_.system_calls - calls, 1u) << counted.name;
    EXPECT_EQ(counts_.wakes - wakes, counted.wakes) << counted.name;
    // Of what wakes by system call number a send does it otherwise.
    const bool futex = std::string(counted.name) == "syscall" && counted.sends == 0;
    EXPECT_EQ(counts_.futex_wakes - futex_wakes, futex ? counted.wakes : 0u) << counted.name;
  }
}

TEST_F(CountingSystemCallsTest, WhatTakesFromASocketAndGivesToOneIsCountedApart) {
  for (const CountedCall& counted : Everything()) {
    const std::string name = counted.name;
    const uint64_t receives = counts_.receives;
    const uint64_t sends = counts_.sends;
    counted.call();
    EXPECT_EQ(counts_.receives - receives, name == "recv" || name == "recvmsg" ? 1u : 0u) << name;
    EXPECT_EQ(counts_.sends - sends, counted.sends) << name;
  }
}

TEST_F(CountingSystemCallsTest, WhatWaitsAndWhatIsAboutTheCpuIsCountedApart) {
  const std::set<std::string> polls = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll",
                                       "ppoll"};
  for (const CountedCall& counted : Everything()) {
    const std::string name = counted.name;
    const uint64_t polled = counts_.polls;
    const uint64_t questions = counts_.cpu_questions;
    const uint64_t offers = counts_.cpu_offers;
    counted.call();
    EXPECT_EQ(counts_.polls - polled, polls.count(name)) << name;
    EXPECT_EQ(counts_.cpu_questions - questions, name == "getrusage" ? 1u : 0u) << name;
    EXPECT_EQ(counts_.cpu_offers - offers, name == "sched_yield" ? 1u : 0u) << name;
  }
}

TEST_F(CountingSystemCallsTest, WhatEntersNoKernelDoesNotCount) {
  timespec now;
  const uint64_t calls = counts_.system_calls;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  EXPECT_EQ(counts_.system_calls, calls);
}

// libuv and Abseil, which are shared libraries, get the functions of the program, too.
TEST_F(CountingSystemCallsTest, SharedLibrariesCallThemToo) {
  Dl_info program;
  ASSERT_NE(::dladdr(reinterpret_cast<void*>(&CountsNow), &program), 0);
  for (const CountedCall& counted : Everything()) {
    Dl_info found;
    void* const address = ::dlsym(RTLD_DEFAULT, counted.name);
    ASSERT_NE(::dladdr(address, &found), 0) << counted.name;
    EXPECT_EQ(found.dli_fbase, program.dli_fbase) << counted.name;
  }
}

}  // namespace
}  // namespace mi7::bench
