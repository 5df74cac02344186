// A server and its client that are killed at the same instant, in the middle of their calls: nobody
// is left to clean up. No descriptor, mapping or segment stays anywhere; the names of the server's
// sockets do, and are removed by whoever comes next, server or client.
//
// The seed is printed; MI7_SEED sets it.

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/shm_kill/load.h"
#include "tests/shm_kill/shared.h"
#include "tests/shm_kill/test_main.h"

namespace mi7::shm_kill {
namespace {

using testing::AnyOf;
using testing::Each;
using testing::Eq;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::SizeIs;

enum Role : uint32_t { kServer, kClient };

constexpr uint32_t kRounds = 2000;

// Met in the runtime directory, which is the test's folder: one by its name, one by its instance
// id.
constexpr char kNamed[] = "shm:both";
constexpr char kPort[] = "mi7://127.0.0.1:0";

std::unique_ptr<Server> StartServer(LedgerService& service) {
  ::setenv("MI7_RUNTIME_DIR", Folder().c_str(), 1);
  auto server = ServerBuilder()
                    .SetOptions(TheServerOptions())
                    .AddService(&service)
                    .Listen(kNamed)
                    .Listen(kPort)
                    .Start();
  MI7_CHECK(server.ok(), server.status().ToString().c_str());
  return *std::move(server);
}

std::shared_ptr<Channel> NewChannel() {
  ::setenv("MI7_RUNTIME_DIR", Folder().c_str(), 1);
  auto channel = Channel::Create(kNamed, ClientOptions());
  MI7_CHECK(channel.ok(), "the endpoint is sound");
  return *std::move(channel);
}

absl::Status Call(const std::shared_ptr<Channel>& channel) {
  SharedState().ledger.Clear();
  auto request =
      conformance::ProbeStub(channel).Echo({.deadline = Deadline::After(absl::Seconds(20))});
  request->setText(std::to_string(SharedState().ledger.Begin()));
  request->initData(10'000);
  return request.Send().Wait().status();
}

std::vector<std::string> Names() {
  const std::string files = FilesInFolder();
  return files.empty() ? std::vector<std::string>()
                       : std::vector<std::string>(absl::StrSplit(files, '\n'));
}

// Processes of this test, itself included, that have memory of a connection mapped.
int ProcessesThatMapMemory() {
  const auto program = [](const std::string& process) {
    std::array<char, 4096> path{};
    const ssize_t size =
        ::readlink(absl::StrCat("/proc/", process, "/exe").c_str(), path.data(), path.size());
    return size <= 0 ? std::string() : std::string(path.data(), static_cast<size_t>(size));
  };
  const std::string own = program("self");
  int count = 0;
  DIR* const folder = ::opendir("/proc");
  while (const dirent* const entry = ::readdir(folder)) {
    if (program(entry->d_name) != own) continue;
    std::ifstream maps(absl::StrCat("/proc/", entry->d_name, "/maps"));
    for (std::string line; std::getline(maps, line);) {
      if (line.find("memfd:mi7-") == std::string::npos) continue;
      ++count;
      break;
    }
  }
  ::closedir(folder);
  return count;
}

}  // namespace

void Live(const Order& order) {
  Board& board = SharedState().board;
  if (order.role == kServer) {
    auto& service = *new LedgerService;
    const auto server = StartServer(service);
    board.steps.store(1);
    for (;;) ::pause();
  }
  std::atomic<bool> stop{false};
  MakeCalls(NewChannel(), order.number, stop, board.ready);
  for (;;) ::pause();
}

namespace {

TEST(BothKilled, NothingStaysButTheNamesWhichTheNextOneRemoves) {
  std::random_device device;
  const char* const given = std::getenv("MI7_SEED");
  const uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : device();
  std::printf("MI7_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  Board& board = SharedState().board;
  Holdings before;
  for (uint32_t round = 0; round < kRounds; ++round) {
    SharedState().ledger.Clear();
    board.ready.store(false);
    board.steps.store(0);
    const pid_t server = TheZygote().Start({.role = kServer});
    ASSERT_TRUE(Happens([&] { return board.steps.load() == 1; })) << "it listens";
    const pid_t client = TheZygote().Start({.role = kClient, .number = random()});
    ASSERT_TRUE(Happens([&] { return board.ready.load(); })) << "it is answered";
    EXPECT_EQ(ProcessesThatMapMemory(), 2) << "it would be seen";
    const Deadline at = Deadline::After(absl::Microseconds(static_cast<int64_t>(random() % 2000)));
    while (!at.passed()) ::sched_yield();
    // Stopped first, so that neither sees the other's end.
    for (const int signal : {SIGSTOP, SIGKILL}) {
      ::kill(server, signal);
      ::kill(client, signal);
    }
    TheZygote().Reap(server);
    TheZygote().Reap(client);
    EXPECT_EQ(SharedState().ledger.Audit(/*caller_lived=*/false), "") << "round " << round;

    EXPECT_EQ(ProcessesThatMapMemory(), 0) << "round " << round;
    ASSERT_THAT(Names(), SizeIs(2)) << "round " << round;
    EXPECT_THAT(Names(), Each(AnyOf(Eq("shm-both.sock"), MatchesRegex("[0-9a-f]+\\.sock"))));
    for (const std::string& name : Names()) {
      struct stat found;
      ASSERT_EQ(::lstat(absl::StrCat(Folder(), "/", name).c_str(), &found), 0);
      EXPECT_TRUE(S_ISSOCK(found.st_mode));
      EXPECT_EQ(found.st_size, 0);
    }
    if (round % 2 == 0) {
      // The call was not sent, so it is repeated, and then the stale name is gone.
      EXPECT_THAT(Call(NewChannel()),
                  StatusIs(absl::StatusCode::kUnavailable, HasSubstr("no server of shm:both")));
    } else {
      LedgerService service;
      const auto next = StartServer(service);
      EXPECT_THAT(Names(), SizeIs(2)) << "its own";
      EXPECT_THAT(Call(NewChannel()), IsOk());
    }
    EXPECT_EQ(FilesInFolder(), "") << "round " << round;
    Holdings now;
    // What the first rounds open once stays: the clients' loop, the log.
    if (round < 2) {
      ASSERT_TRUE(Happens([&] { return (before = GetHoldings()).mappings == 0; }));
    }
    ASSERT_TRUE(Happens([&] { return (now = GetHoldings()) == before || round < 2; }))
        << "round " << round << ": " << now.mappings << " mappings, " << now.descriptors
        << " descriptors instead of " << before.descriptors;
  }
  std::printf("RELIABILITY: %u servers and their clients killed together; nothing stays\n",
              kRounds);
}

}  // namespace
}  // namespace mi7::shm_kill
