// Servers and clients that are killed at random instants, while they connect or under load, and
// what the other side makes of it: every call's fate is what its handler's runs say, a death is
// noticed within 100 ms, the next process is found without help, and nothing is left over.
//
// The seed is printed; MI7_SEED sets it. MI7_KILLS: how many of each side are killed. --long, or
// MI7_LONG in the environment: many.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/shm_kill/load.h"
#include "tests/shm_kill/shared.h"
#include "tests/shm_kill/test_main.h"

namespace mi7::shm_kill {
namespace {

enum Role : uint32_t { kServer, kClient };

// Of each side; the least of it in any case, the rest while there is time. The long run takes all
// of its number.
constexpr uint32_t kKillsMin = 1000;
constexpr uint32_t kKills = 1100;
constexpr uint32_t kKillsLong = 100'000;
constexpr absl::Duration kBudget = absl::Seconds(45);

uint32_t KillsMin() {
  const char* const given = std::getenv("MI7_KILLS");
  if (given != nullptr) return static_cast<uint32_t>(std::strtoul(given, nullptr, 10));
  return LongRun() ? kKillsLong : kKillsMin;
}

bool GoesOn(uint32_t round, Deadline budget) {
  const uint32_t least = KillsMin();
  return round < least || (least == kKillsMin && round < kKills && !budget.passed());
}

std::string TheEndpoint() { return absl::StrCat("shm:", Folder(), "/server"); }

std::unique_ptr<Server> StartServer(LedgerService& service) {
  auto server = ServerBuilder()
                    .SetOptions(TheServerOptions())
                    .AddService(&service)
                    .Listen(TheEndpoint())
                    .Start();
  MI7_CHECK(server.ok(), server.status().ToString().c_str());
  return *std::move(server);
}

std::shared_ptr<Channel> NewChannel() {
  auto channel = Channel::Create(TheEndpoint(), ClientOptions());
  MI7_CHECK(channel.ok(), "the endpoint is sound");
  return *std::move(channel);
}

uint64_t Seed() {
  const char* const given = std::getenv("MI7_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("MI7_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

// An instant of up to `max_us` from now.
void Pass(std::mt19937_64& random, uint64_t max_us) {
  const Deadline at = Deadline::After(absl::Microseconds(static_cast<int64_t>(random() % max_us)));
  while (!at.passed()) ::sched_yield();
}

bool WasKilled(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }

std::string AuditText(bool caller_lived) {
  const std::string wrong = SharedState().ledger.Audit(caller_lived);
  return wrong.empty() ? wrong : absl::StrCat(wrong, " ", SharedState().board.text.data());
}

}  // namespace

void Live(const Order& order) {
  if (order.role == kServer) {
    auto& service = *new LedgerService;
    const std::unique_ptr<Server> server = StartServer(service);
    SharedState().board.ready.store(true);
    for (;;) ::pause();
  }
  std::atomic<bool> stop{false};
  const std::shared_ptr<Channel> channel = NewChannel();
  MakeCalls(channel, order.number, stop, SharedState().board.ready);
  for (;;) ::pause();
}

namespace {

TEST(RandomKills, OfServers) {
  std::mt19937_64 random(Seed());
  const Deadline budget = Deadline::After(kBudget);
  const std::shared_ptr<Channel> channel = NewChannel();
  Notices notices;
  Holdings before;
  uint64_t calls = 0;
  uint32_t round = 0;
  for (; GoesOn(round, budget); ++round) {
    Ledger& ledger = SharedState().ledger;
    ledger.Clear();
    SharedState().board.ready.store(false);
    pid_t server = TheZygote().Start({.role = kServer});
    std::atomic<bool> stop{false};
    std::atomic<bool> first_ok{false};
    std::thread load([&, seed = random()] { MakeCalls(channel, seed, stop, first_ok); });
    // Every fourth is killed while it starts and is connected to.
    if (round % 4 == 0) {
      Pass(random, 8000);
      ASSERT_TRUE(WasKilled(TheZygote().Kill(server))) << "it crashed";
      SharedState().board.ready.store(false);
      server = TheZygote().Start({.role = kServer});
      // The first one may have answered. What it left is gone when the second one listens.
      ASSERT_TRUE(Happens([] { return SharedState().board.ready.load(); })) << "round " << round;
    }
    ASSERT_TRUE(Happens([&] { return first_ok.load(); }))
        << "round " << round << ": a new server is reconnected to; " << AuditText(true) << " "
        << channel->Describe();
    Pass(random, 2000);
    const int64_t killed_ns = MonotonicNanos();
    ASSERT_TRUE(WasKilled(TheZygote().Kill(server))) << "it crashed";
    stop.store(true);
    load.join();  // no call outlives the server
    notices.Add(MonotonicNanos() - killed_ns);
    calls += std::min(ledger.begun.load(), kCallsMax);
    ASSERT_EQ(AuditText(true), "") << "round " << round;
    EXPECT_EQ(FilesInFolder(), "server") << "round " << round;
    // Between two connections; the channel tries in vain meanwhile.
    if (round == 2) before = Holdings{GetHoldings().descriptors, 0};
    Holdings now;
    ASSERT_TRUE(Happens([&] { return (now = GetHoldings()).mappings == 0; })) << now.mappings;
    if (round > 2) {
      ASSERT_TRUE(Happens([&] { return GetHoldings().descriptors <= before.descriptors; }))
          << "round " << round << ": " << GetHoldings().descriptors << " descriptors instead of "
          << before.descriptors;
    }
  }
  std::printf("RELIABILITY: %u servers killed, %u of them as they started, %llu calls; %s\n",
              round + (round + 3) / 4, (round + 3) / 4, static_cast<unsigned long long>(calls),
              notices.ToString().c_str());
  EXPECT_TRUE(notices.InTime()) << notices.ToString();
  EXPECT_GE(round, KillsMin());
}

TEST(RandomKills, OfClients) {
  std::mt19937_64 random(Seed());
  const Deadline budget = Deadline::After(kBudget);
  LedgerService service;
  const std::unique_ptr<Server> server = StartServer(service);
  Notices notices;
  Holdings before;
  uint64_t calls = 0;
  uint32_t round = 0;
  for (; GoesOn(round, budget); ++round) {
    Ledger& ledger = SharedState().ledger;
    ledger.Clear();
    SharedState().board.ready.store(false);
    const pid_t client = TheZygote().Start({.role = kClient, .number = random()});
    // Every fourth is killed while it starts and connects.
    if (round % 4 != 0) {
      ASSERT_TRUE(Happens([&] { return SharedState().board.ready.load(); }))
          << "round " << round << ": a new client gets its answer; " << AuditText(false);
    }
    Pass(random, 2000);
    const int64_t killed_ns = MonotonicNanos();
    ASSERT_TRUE(WasKilled(TheZygote().Kill(client))) << "it crashed";
    ASSERT_TRUE(Happens([&] { return server->connection_count() == 0; })) << "round " << round;
    notices.Add(MonotonicNanos() - killed_ns);
    calls += std::min(ledger.begun.load(), kCallsMax);
    Holdings now;
    if (round <= 2) before = Holdings{GetHoldings().descriptors, 0};
    ASSERT_TRUE(Happens([&] {
      now = GetHoldings();
      return now.mappings == 0 && (round <= 2 || now.descriptors <= before.descriptors);
    })) << "round "
        << round << ": " << now.mappings << " mappings, " << now.descriptors
        << " descriptors instead of " << before.descriptors;
    ASSERT_EQ(AuditText(false), "") << "round " << round;
    EXPECT_EQ(FilesInFolder(), "server") << "round " << round;
  }
  std::printf("RELIABILITY: %u clients killed, %llu calls; %s\n", round,
              static_cast<unsigned long long>(calls), notices.ToString().c_str());
  EXPECT_TRUE(notices.InTime()) << notices.ToString();
  EXPECT_GE(round, KillsMin());
}

}  // namespace
}  // namespace mi7::shm_kill
