// What local connections cost while nothing happens on them, through the public Channel and Server:
// shared memory, heap memory, CPU time and wakeups.

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "base/heap_testing.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/local/testing.h"
#include "transport/shm/testing.h"

namespace mi7 {
namespace {

using conformance::kSoon;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using transport::shm::CommittedSlotBytes;

// Whether `happens` before it is too late; asked again and again.
template <typename Predicate>
bool Comes(Predicate happens) {
  const Deadline deadline = Deadline::After(kSoon);
  while (!happens()) {
    if (deadline.passed()) return false;
    ::sched_yield();
  }
  return true;
}

// As many descriptors as there may be; false, and says so, when they are fewer than `wanted`.
bool HaveDescriptors(rlim_t wanted) {
  rlimit files;
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return false;
  files.rlim_cur = std::max(files.rlim_cur, std::min(wanted, files.rlim_max));
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0) return false;
  if (files.rlim_cur >= wanted) return true;
  std::fprintf(stderr, "NOTICE: test not run, it takes %llu descriptors and %llu are permitted\n",
               static_cast<unsigned long long>(wanted),
               static_cast<unsigned long long>(files.rlim_cur));
  return false;
}

void Call(const std::shared_ptr<Channel>& channel, unsigned bytes) {
  auto request = ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)});
  request->setText("text");
  if (bytes != 0) request->initData(bytes);
  ASSERT_THAT(request.Send().Wait(), IsOk());
}

// --- Memory

// Sizes of the control pages that are mapped, each counted once.
uint64_t ControlBytes() {
  std::map<std::string, uint64_t> pages;  // by inode
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:mi7-control") == std::string::npos) continue;
    std::istringstream fields(line);
    std::string range, rights, offset, device, inode;
    fields >> range >> rights >> offset >> device >> inode;
    uint64_t from = 0, to = 0;
    const size_t dash = range.find('-');
    if (!absl::SimpleHexAtoi(range.substr(0, dash), &from) ||
        !absl::SimpleHexAtoi(range.substr(dash + 1), &to)) {
      return 0;
    }
    pages[inode] = to - from;
  }
  uint64_t bytes = 0;
  for (const auto& [inode, size] : pages) bytes += size;
  return bytes;
}

TEST(IdleLocalTest, AConnectionCommits4KiBAtEachEndAndTakesAtMost3KiBOfHeapThere) {
  constexpr size_t kWarm = 50;
  constexpr size_t kCounted = 300;
  if (!HaveDescriptors(8 * (kWarm + kCounted) + 100)) GTEST_SKIP();
  const transport::testing::TemporaryDirectory directory;
  ProbeImpl probe;
  ServerOptions options;
  options.event_loops = 1;
  const std::string endpoint = absl::StrCat("shm:", directory / "s");
  const auto server =
      *ServerBuilder().SetOptions(options).AddService(&probe).Listen(endpoint).Start();
  std::vector<std::shared_ptr<Channel>> channels;
  channels.reserve(kWarm + kCounted);
  const auto open = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) {
      channels.push_back(*Channel::Create(endpoint));
      Call(channels.back(), 0);
      // Of two classes of slots, on both sides.
      Call(channels.back(), 2'000);
      Call(channels.back(), 50'000);
    }
    EXPECT_GT(CommittedSlotBytes(), 0u);
    ASSERT_TRUE(Comes([] { return CommittedSlotBytes() == 0; }))
        << "pages go back when nothing happens";
  };
  open(kWarm);
  if (HasFatalFailure()) return;
  const size_t heap_before = HeapBytes();
  open(kCounted);
  EXPECT_EQ(ControlBytes(), (kWarm + kCounted) * 8192);
  const size_t each = (HeapBytes() - heap_before) / kCounted;
  std::printf("%zu bytes of heap for both ends of each idle local connection\n", each);
  if (kHeapIsCounted) {
    EXPECT_LE(each, 2 * 3'072u);
  }
  for (const auto& channel : channels) Call(channel, 2'000);  // they still work
}

// --- CPU

// What the threads of a process have done so far; `only`: those whose name begins so.
struct Activity {
  uint64_t switches = 0;  // a thread that is woken makes one when it sleeps again
  uint64_t ticks = 0;     // of CPU time
  friend bool operator==(const Activity&, const Activity&) = default;
};

Activity ActivityOf(pid_t process, const std::string& only) {
  Activity activity;
  const std::string tasks = absl::StrCat("/proc/", process, "/task");
  DIR* const folder = ::opendir(tasks.c_str());
  if (folder == nullptr) return activity;
  while (const dirent* const entry = ::readdir(folder)) {
    const std::string task = absl::StrCat(tasks, "/", entry->d_name);
    std::ifstream status(task + "/status");
    Activity own;
    bool counts = false;
    for (std::string line; std::getline(status, line);) {
      std::istringstream fields(line);
      std::string name, value;
      fields >> name >> value;
      if (name == "Name:") counts = absl::StartsWith(value, only);
      if (absl::EndsWith(name, "ctxt_switches:")) own.switches += std::stoull(value);
    }
    std::ifstream stat(task + "/stat");
    std::string line;
    std::getline(stat, line);
    std::istringstream fields(line.substr(std::min(line.rfind(')') + 1, line.size())));
    std::string field;
    for (int i = 3; fields >> field && i <= 15; ++i) {
      if (i == 14 || i == 15) own.ticks += std::stoull(field);  // utime, stime
    }
    if (!counts) continue;
    activity.switches += own.switches;
    activity.ticks += own.ticks;
  }
  ::closedir(folder);
  return activity;
}

// Other work: so much CPU time of this thread, which takes at least so long.
void WorkFor(int64_t cpu_ns) {
  const auto now = [] {
    timespec time;
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  const int64_t end = now() + cpu_ns;
  volatile uint64_t sum = 0;
  while (now() < end) {
    for (int i = 0; i < 10'000; ++i) sum = sum + static_cast<uint64_t>(i);
  }
}

TEST(IdleLocalTest, AThousandIdleClientsCostNeitherCpuNorWakeups) {
  constexpr size_t kClients = 1000;
  if (!HaveDescriptors(4 * kClients)) GTEST_SKIP();
  const transport::testing::TemporaryDirectory directory;
  const std::string endpoint = absl::StrCat("shm:", directory / "s");
  std::array<int, 2> pipe;
  ASSERT_EQ(::pipe(pipe.data()), 0);
  const pid_t server = transport::testing::Fork([&] {
    ProbeImpl probe;
    const auto serving = ServerBuilder().AddService(&probe).Listen(endpoint).Start();
    if (!serving.ok() || ::write(pipe[1], "!", 1) != 1) return 1;
    ::alarm(300);
    return ::pause();
  });
  char ready = 0;
  ASSERT_EQ(::read(pipe[0], &ready, 1), 1);
  std::vector<std::shared_ptr<Channel>> channels;
  for (size_t i = 0; i < kClients; ++i) {
    channels.push_back(*Channel::Create(endpoint));
    Call(channels.back(), i % 2 == 0 ? 0 : 2'000);
  }
  ASSERT_EQ(channels.back()->transport(), "shm");

  const auto both = [&] {
    return std::array{ActivityOf(server, "mi7-server"), ActivityOf(::getpid(), "mi7-client")};
  };
  // Until what follows a call is over: memory goes back after a second.
  ASSERT_TRUE(Comes([&] {
    const auto before = both();
    WorkFor(1'500'000'000);
    return both() == before;
  }));
  const auto before = both();
  EXPECT_GT(before[0].switches, 0u) << "they are counted";
  EXPECT_GT(before[1].switches, 0u);
  WorkFor(2'000'000'000);
  const auto after = both();
  EXPECT_EQ(after[0].switches, before[0].switches) << "of the server";
  EXPECT_EQ(after[0].ticks, before[0].ticks);
  EXPECT_EQ(after[1].switches, before[1].switches) << "of the clients";
  EXPECT_EQ(after[1].ticks, before[1].ticks);
  for (size_t i = 0; i < kClients; i += 100) Call(channels[i], 2'000);

  channels.clear();
  ::kill(server, SIGKILL);
  EXPECT_EQ(transport::testing::WaitFor(server), 128 + SIGKILL);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

}  // namespace
}  // namespace mi7
