// Servers on the same address and port of two networks of one machine, with one runtime directory:
// what two containers are that share a user and a directory. A client gets the server of its own
// network, through shared memory, and never the other one.
//
// Every host is a process of its own, forked before any thread exists.

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "tests/conformance/call/probe_service.h"
#include "tests/netns/child_host.h"
#include "tests/netns/namespaces.h"

namespace mi7::conformance {
namespace {

using testing::StartsWith;

constexpr char kEndpoint[] = "mi7://127.0.0.1:4711";

// What a client says of one call with a channel of its own: "NAME over TRANSPORT", or the failure.
std::string CallOnce(const transport::LocalOptions& local) {
  ChannelOptions options;
  options.local = local;
  auto channel = Channel::Create(kEndpoint, options);
  if (!channel.ok()) return std::string(channel.status().message());
  auto response = ProbeStub(*channel).Echo({.deadline = Deadline::After(kSoon)}).Send().Wait();
  const std::string transport = (*channel)->transport();
  const std::string description = (*channel)->Describe();
  (*channel)->Close();
  if (!response.ok()) return std::string(response.status().message());
  return absl::StrCat(response->getText().cStr(), " over ", transport,
                      transport == "shm" ? "" : absl::StrCat(" (", description, ")"));
}

// A host's life: it enters its network, then does what the letters on its input say: s serves, c
// calls; each is answered with a line. The end of its input ends it.
void Live(const std::string& name, pid_t network_of, const std::string& runtime_dir, int commands,
          int answers) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto answer = [answers](const std::string& text) {
    const std::string line = text + "\n";
    MI7_CHECK(::write(answers, line.data(), line.size()) == static_cast<ssize_t>(line.size()),
              "the test listens");
  };
  const bool entered = network_of != 0 ? EnterNetworkOf(network_of)
                                       : EnterNewNetwork().empty() && Ip("link set lo up");
  answer(entered ? "ok" : "no network");
  transport::LocalOptions local;
  local.runtime_dir = runtime_dir;
  ProbeImpl probe;
  probe.on_echo = [&name](ServerContext&, Probe::EchoParams::Reader,
                          Probe::EchoResults::Builder results) -> Reply {
    results.setText(name);
    return absl::OkStatus();
  };
  std::unique_ptr<Server> server;
  for (char command; ::read(commands, &command, 1) == 1;) {
    if (command == 'c') {
      answer(CallOnce(local));
      continue;
    }
    ServerOptions options;
    options.local = local;
    auto started = ServerBuilder().SetOptions(options).AddService(&probe).Listen(kEndpoint).Start();
    answer(started.ok() ? "ok" : std::string(started.status().message()));
    if (started.ok()) server = *std::move(started);
  }
}

class Host : public ChildHost {
 public:
  // In a network of its own, or in that of process `network_of`.
  Host(const std::string& name, const std::string& runtime_dir, pid_t network_of = 0)
      : ChildHost([&](int commands, int answers) {
          Live(name, network_of, runtime_dir, commands, answers);
        }),
        entered_(NextLine()) {}
  const std::string& entered() const { return entered_; }

 private:
  const std::string entered_;
};

class SamePortTest : public testing::Test {
 protected:
  void SetUp() override {
    // The hosts' networks are below this one, so that they may enter each other's.
    const std::string& why_not = EnterTestsNetwork();
    if (!why_not.empty()) GTEST_SKIP() << NotRun("same-port test", why_not);
    std::string pattern = "/tmp/mi7-netns-XXXXXX";
    MI7_CHECK(::mkdtemp(pattern.data()) != nullptr, "a temporary directory can be made");
    directory_ = pattern;
  }
  void TearDown() override {
    std::error_code ignored;
    if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
  }
  size_t FileCount() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(directory_), {}));
  }

  std::string directory_;
};

TEST_F(SamePortTest, EachNetworksClientGetsItsOwnServer) {
  Host one("one", directory_), two("two", directory_);
  ASSERT_EQ(one.entered(), "ok");
  ASSERT_EQ(two.entered(), "ok");
  ASSERT_EQ(one.Do('s'), "ok");
  ASSERT_EQ(two.Do('s'), "ok");
  EXPECT_EQ(FileCount(), 2u) << "both meet their clients in the same directory";
  Host client_of_one("client", directory_, one.pid()),
      client_of_two("client", directory_, two.pid());
  ASSERT_EQ(client_of_one.entered(), "ok");
  ASSERT_EQ(client_of_two.entered(), "ok");
  for (int round = 0; round < 10; ++round) {
    EXPECT_EQ(client_of_one.Do('c'), "one over shm");
    EXPECT_EQ(client_of_two.Do('c'), "two over shm");
  }
}

TEST_F(SamePortTest, NetworkWithoutAServerHasNone) {
  Host one("one", directory_), empty("empty", directory_);
  ASSERT_EQ(one.Do('s'), "ok");
  EXPECT_EQ(FileCount(), 1u);
  EXPECT_THAT(empty.Do('c'), StartsWith("Probe.echo: connecting to mi7://127.0.0.1:4711 failed"));
}

TEST_F(SamePortTest, SuccessorOfAKilledServerIsFoundAndTheOtherOneNot) {
  Host one("one", directory_), two("two", directory_);
  Host client("client", directory_, one.pid());
  ASSERT_EQ(one.Do('s'), "ok");
  ASSERT_EQ(two.Do('s'), "ok");
  EXPECT_EQ(client.Do('c'), "one over shm");
  one.Kill();
  EXPECT_EQ(FileCount(), 2u) << "what kill -9 leaves";
  EXPECT_THAT(client.Do('c'), StartsWith("Probe.echo: connecting to mi7://127.0.0.1:4711 failed"));
  Host successor("successor", directory_, client.pid());
  ASSERT_EQ(successor.Do('s'), "ok");
  EXPECT_EQ(FileCount(), 2u) << "the killed server's is swept";
  EXPECT_EQ(client.Do('c'), "successor over shm");
}

}  // namespace
}  // namespace mi7::conformance
