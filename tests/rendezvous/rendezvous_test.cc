// Channels and servers on one machine: which transport they choose by themselves, what they say of
// it, and what forces one.

#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/local/testing.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;
using transport::testing::TemporaryDirectory;

class RendezvousTest : public testing::Test {
 protected:
  RendezvousTest() {
    local_.runtime_dir = directory_.path();
    SetLogSink([this](LogLevel level, absl::string_view text) {
      absl::MutexLock lock(&mutex_);
      if (level == LogLevel::kInfo) news_.emplace_back(text);
      if (level == LogLevel::kWarning) warnings_.emplace_back(text);
    });
  }
  ~RendezvousTest() override { SetLogSink(nullptr); }

  absl::StatusOr<std::unique_ptr<Server>> Start(const std::string& endpoint) {
    ServerOptions options;
    options.local = local_;
    return ServerBuilder().SetOptions(options).AddService(&probe_).Listen(endpoint).Start();
  }
  std::shared_ptr<Channel> ChannelTo(const std::string& endpoint) {
    ChannelOptions options;
    options.local = local_;
    options.backoff.initial = absl::Milliseconds(1);
    options.backoff.max = absl::Milliseconds(10);
    return *Channel::Create(endpoint, options);
  }
  static EchoResult Echo(const std::shared_ptr<Channel>& channel, const std::string& text) {
    auto request =
        ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon), .wait_for_ready = true});
    request->setText(text);
    return request.Send().Wait();
  }
  std::vector<std::string> news() {
    absl::MutexLock lock(&mutex_);
    return news_;
  }
  std::vector<std::string> warnings() {
    absl::MutexLock lock(&mutex_);
    return warnings_;
  }

  const TemporaryDirectory directory_;
  transport::LocalOptions local_;
  ProbeImpl probe_;

 private:
  absl::Mutex mutex_;
  std::vector<std::string> news_;
  std::vector<std::string> warnings_;
};

TEST_F(RendezvousTest, ServerOnThisMachineIsMetInSharedMemoryAndBothSaySo) {
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  const std::string endpoint = (*server)->endpoints()[0];
  ASSERT_THAT(directory_.names(), SizeIs(1));
  EXPECT_THAT(news(),
              ElementsAre(absl::StrCat("listening on ", endpoint, " (TCP, and shared memory at ",
                                       directory_.path(), "/", directory_.names()[0], ")")));
  const auto channel = ChannelTo(endpoint);
  EXPECT_THAT(Echo(channel, "hello"), IsOk());
  EXPECT_EQ(channel->transport(), "shm");
  EXPECT_THAT(channel->Describe(), StartsWith(endpoint + ": ready, calls go over shm to "));
  EXPECT_THAT(channel->Describe(), Not(HasSubstr("no shared memory")));
  EXPECT_THAT(news().back(), StartsWith(endpoint + ": connected, calls go over shm to "));
  EXPECT_THAT(news(), SizeIs(2)) << "once";
  EXPECT_THAT(warnings(), IsEmpty());
  channel->Close();
  EXPECT_THAT((*server)->Shutdown(Deadline::After(kSoon)), IsOk());
  EXPECT_THAT(directory_.names(), IsEmpty());
}

TEST_F(RendezvousTest, FallbackToTcpIsExplained) {
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  const std::string endpoint = (*server)->endpoints()[0];
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0750), 0);
  const auto channel = ChannelTo(endpoint);
  EXPECT_THAT(Echo(channel, "hello"), IsOk());
  EXPECT_EQ(channel->transport(), "tcp");
  EXPECT_EQ(channel->Describe(),
            absl::StrCat(endpoint, ": ready, calls go over tcp to tcp:", endpoint.substr(6),
                         "; no shared memory: runtime directory ", directory_.path(),
                         ": its mode is 0750, which lets others in; run chmod 700 '",
                         directory_.path(), "', or set MI7_RUNTIME_DIR to another directory"));
  EXPECT_THAT(news().back(), HasSubstr("no shared memory: runtime directory"));
}

// The right server is met, so its Unix socket will do.
TEST_F(RendezvousTest, RefusedMemoryMeansTheUnixSocketAndAReason) {
  const transport::LocalOptions ours = local_;
  local_.shm.peer_bytes_max = 4096;
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  local_ = ours;
  const auto channel = ChannelTo((*server)->endpoints()[0]);
  EXPECT_THAT(Echo(channel, "hello"), IsOk());
  EXPECT_EQ(channel->transport(), "unix");
  EXPECT_THAT(channel->Describe(), AllOf(HasSubstr("calls go over unix to unix:"),
                                         HasSubstr("; no shared memory: "), HasSubstr("4096")));
}

TEST_F(RendezvousTest, LimitOfFilesTooLowForTheMemoryMeansTheUnixSocketAndAReason) {
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 100 << 20;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &low), 0);
  const auto channel = ChannelTo((*server)->endpoints()[0]);
  EXPECT_THAT(Echo(channel, "hello"), IsOk());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(channel->transport(), "unix");
  EXPECT_THAT(channel->Describe(),
              AllOf(HasSubstr("; no shared memory: "), HasSubstr("RLIMIT_FSIZE, 104857600")));
}

TEST_F(RendezvousTest, ChannelsThatComeAndGoLeaveNoDescriptors) {
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  const auto open_descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  };
  const auto come_and_go = [&] {
    const auto channel = ChannelTo((*server)->endpoints()[0]);
    EXPECT_THAT(Echo(channel, "hello"), IsOk());
    EXPECT_EQ(channel->transport(), "shm");
    channel->Close();
  };
  come_and_go();
  const auto gone = [&server] {
    const Deadline patience = Deadline::After(kSoon);
    while ((*server)->connection_count() != 0 && !patience.passed()) std::this_thread::yield();
    return (*server)->connection_count() == 0;
  };
  ASSERT_TRUE(gone());
  const auto before = open_descriptors();
  for (int i = 0; i < 50; ++i) come_and_go();
  ASSERT_TRUE(gone());
  // Both ends close their descriptors just after the server has counted them out.
  const Deadline patience = Deadline::After(kSoon);
  while (open_descriptors() > before && !patience.passed()) std::this_thread::yield();
  EXPECT_LE(open_descriptors(), before);
}

TEST_F(RendezvousTest, TcpIsForced) {
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  const std::string address = (*server)->endpoints()[0].substr(6);
  const auto channel = ChannelTo("tcp:" + address);
  EXPECT_THAT(Echo(channel, "hello"), IsOk());
  EXPECT_EQ(channel->Describe(),
            absl::StrCat("tcp:", address, ": ready, calls go over tcp to tcp:", address))
      << "who asked for TCP needs no reason";
}

TEST_F(RendezvousTest, RestartedServerIsMetAgain) {
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  const std::string endpoint = (*server)->endpoints()[0];
  const auto channel = ChannelTo(endpoint);
  EXPECT_THAT(Echo(channel, "one"), IsOk());
  ASSERT_THAT((*server)->Shutdown(Deadline::After(kSoon)), IsOk());
  server = Start(endpoint);
  ASSERT_THAT(server, IsOk());
  EXPECT_THAT(Echo(channel, "two"), IsOk());
  EXPECT_EQ(channel->transport(), "shm");
}

TEST_F(RendezvousTest, WhatWasBegunInSharedMemoryIsSentOverTcp) {
  auto server = Start("mi7://127.0.0.1:0");
  ASSERT_THAT(server, IsOk());
  const std::string endpoint = (*server)->endpoints()[0];
  const auto channel = ChannelTo(endpoint);
  const std::string text(100'000, 'x');
  // As large as it is foretold to be, the next one is built in a slot.
  for (int i = 0; i < 3; ++i) ASSERT_THAT(Echo(channel, text), IsOk());
  EXPECT_EQ(channel->transport(), "shm");
  auto request =
      ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon), .wait_for_ready = true});
  request->setText(text);
  ASSERT_THAT((*server)->Shutdown(Deadline::After(kSoon)), IsOk());
  server = Start(endpoint);
  ASSERT_THAT(server, IsOk());
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0750), 0);
  const EchoResult answer = request.Send().Wait();
  ASSERT_THAT(answer, IsOk());
  EXPECT_EQ(std::string(answer->getText()), text);
  EXPECT_EQ(channel->transport(), "tcp");
}

TEST_F(RendezvousTest, SharedMemoryByName) {
  auto server = Start("shm:probe.1");
  ASSERT_THAT(server, IsOk());
  EXPECT_THAT((*server)->endpoints(), ElementsAre("shm:probe.1"));
  EXPECT_THAT(directory_.names(), ElementsAre("shm-probe.1.sock"));
  const auto channel = ChannelTo("shm:probe.1");
  EXPECT_THAT(Echo(channel, "hello"), IsOk());
  EXPECT_EQ(channel->transport(), "shm");
  EXPECT_THAT(Start("shm:probe.1"),
              StatusIs(absl::StatusCode::kAlreadyExists,
                       AllOf(HasSubstr("shm:probe.1"), EndsWith("shm-probe.1.sock already"))));
  channel->Close();
  EXPECT_THAT((*server)->Shutdown(Deadline::After(kSoon)), IsOk());
  EXPECT_THAT(directory_.names(), IsEmpty());
}

TEST_F(RendezvousTest, NameThatNobodyServes) {
  const auto channel = ChannelTo("shm:nobody");
  const absl::Status status = channel->Connect(Deadline::After(kSoon));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               absl::StrCat("connecting to shm:nobody: no server of shm:nobody in ",
                                            directory_.path())));
}

TEST_F(RendezvousTest, SharedMemoryAndStreamsByPath) {
  for (const std::string transport : {"shm", "unix"}) {
    const std::string endpoint = absl::StrCat(transport, ":", directory_ / "probe");
    local_.socket_mode = 0660;
    auto server = Start(endpoint);
    ASSERT_THAT(server, IsOk());
    struct stat found;
    ASSERT_EQ(::stat((directory_ / "probe").c_str(), &found), 0);
    EXPECT_EQ(found.st_mode & 0777, 0660u);
    const auto channel = ChannelTo(endpoint);
    EXPECT_THAT(Echo(channel, "hello"), IsOk());
    EXPECT_EQ(channel->transport(), transport);
    channel->Close();
    EXPECT_THAT((*server)->Shutdown(Deadline::After(kSoon)), IsOk());
    EXPECT_THAT(directory_.names(), IsEmpty());
  }
}

// What was asked for by name is not replaced by something else.
TEST_F(RendezvousTest, PolicyOfTheServerRefuses) {
  const transport::LocalOptions ours = local_;
  for (const std::string transport : {"shm", "unix"}) {
    const std::string endpoint = absl::StrCat(transport, ":", directory_ / "probe");
    local_.peers = transport::PeerPolicy::Nobody();
    auto server = Start(endpoint);
    ASSERT_THAT(server, IsOk());
    local_ = ours;
    const absl::Status status = ChannelTo(endpoint)->Connect(Deadline::After(kSoon));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kPermissionDenied,
                                 EndsWith("is not allowed: the peer policy admits nobody")));
  }
}

TEST_F(RendezvousTest, PolicyOfTheClientRefuses) {
  for (const std::string transport : {"shm", "unix"}) {
    const std::string endpoint = absl::StrCat(transport, ":", directory_ / "probe");
    local_.peers = {};
    auto server = Start(endpoint);
    ASSERT_THAT(server, IsOk());
    local_.peers = transport::PeerPolicy::Nobody();
    const absl::Status status = ChannelTo(endpoint)->Connect(Deadline::After(kSoon));
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kPermissionDenied,
                                 EndsWith("is not allowed: the peer policy admits nobody")));
  }
}

TEST_F(RendezvousTest, OptionsThatCannotBeUsedAreRefusedAtOnce) {
  local_.runtime_dir = "run";
  const std::string why = "local.runtime_dir is 'run', must be an absolute path";
  EXPECT_THAT(Start("mi7://127.0.0.1:0"), StatusIs(absl::StatusCode::kInvalidArgument, why));
  ChannelOptions options;
  options.local = local_;
  EXPECT_THAT(Channel::Create("mi7://127.0.0.1:1", options),
              StatusIs(absl::StatusCode::kInvalidArgument, why));
}

TEST_F(RendezvousTest, EnvironmentNamesTheDirectory) {
  ASSERT_EQ(::setenv("MI7_RUNTIME_DIR", directory_.path().c_str(), 1), 0);
  local_.runtime_dir.clear();
  auto server = Start("shm:probe");
  ::unsetenv("MI7_RUNTIME_DIR");
  ASSERT_THAT(server, IsOk());
  EXPECT_THAT(directory_.names(), ElementsAre("shm-probe.sock"));
}

}  // namespace
}  // namespace mi7::conformance
