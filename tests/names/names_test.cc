// Channels to host names: while a name is being resolved, and when it has several addresses.
//
// The names of this test end in ".mi7.test". This file defines getaddrinfo(), which answers for
// them itself, when the test says so, and passes everything else on to the C library.

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "base/check.h"
#include "base/deadline.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7 {
namespace {

using conformance::EchoResult;
using conformance::Happens;
using conformance::kSoon;
using conformance::Probe;
using conformance::ProbeImpl;
using conformance::ProbeStub;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

// The test's part of the system's resolver. Thread-safe.
class Names {
 public:
  static Names& The() {
    static Names* const names = new Names;
    return *names;
  }
  // `name` has these IPv4 addresses.
  void Set(const std::string& name, std::vector<std::string> addresses) {
    absl::MutexLock lock(&mutex_);
    addresses_[name] = std::move(addresses);
  }
  // Lookups of `name` do not end before Release.
  void Hold(const std::string& name) {
    absl::MutexLock lock(&mutex_);
    held_[name] = true;
  }
  void Release(const std::string& name) {
    absl::MutexLock lock(&mutex_);
    held_[name] = false;
  }
  // Waits for lookups under way.
  bool AwaitLookups(int count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [this, count]()
                            ABSL_NO_THREAD_SAFETY_ANALYSIS { return under_way_ == count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&enough), kSoon);
  }

  std::vector<std::string> LookUp(const std::string& name) {
    absl::MutexLock lock(&mutex_);
    ++under_way_;
    const auto released = [this, &name]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !held_[name]; };
    mutex_.Await(absl::Condition(&released));
    --under_way_;
    return addresses_[name];
  }

 private:
  absl::Mutex mutex_;
  std::map<std::string, std::vector<std::string>> addresses_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, bool> held_ ABSL_GUARDED_BY(mutex_);
  int under_way_ ABSL_GUARDED_BY(mutex_) = 0;
};

// One node of a result, in one block, as freeaddrinfo() of the C library frees it.
addrinfo* NewAddress(const std::string& text) {
  struct Block {
    addrinfo info;
    sockaddr_in address;
  };
  auto* const block = static_cast<Block*>(std::calloc(1, sizeof(Block)));
  block->address.sin_family = AF_INET;
  MI7_CHECK(::inet_pton(AF_INET, text.c_str(), &block->address.sin_addr) == 1, "an address");
  block->info.ai_family = AF_INET;
  block->info.ai_socktype = SOCK_STREAM;
  block->info.ai_addrlen = sizeof(block->address);
  block->info.ai_addr = reinterpret_cast<sockaddr*>(&block->address);
  return &block->info;
}

}  // namespace
}  // namespace mi7

extern "C" int getaddrinfo(const char* name, const char* service, const addrinfo* hints,
                           addrinfo** result) {
  if (name == nullptr || !absl::EndsWith(name, ".mi7.test")) {
    static const auto real =
        reinterpret_cast<decltype(&getaddrinfo)>(::dlsym(RTLD_NEXT, "getaddrinfo"));
    return real(name, service, hints, result);
  }
  addrinfo** end = result;
  *end = nullptr;
  for (const std::string& address : mi7::Names::The().LookUp(name)) {
    *end = mi7::NewAddress(address);
    end = &(*end)->ai_next;
  }
  return *result != nullptr ? 0 : EAI_NONAME;
}

namespace mi7 {
namespace {

// An address that takes connections into its backlog until that is full, and answers no further
// one: what a host that is switched off looks like.
class DeadListener {
 public:
  DeadListener(const std::string& address, uint16_t port)
      : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_port = htons(port);
    MI7_CHECK(
        ::inet_pton(AF_INET, address.c_str(), &address_.sin_addr) == 1 &&
            ::bind(fd_, reinterpret_cast<const sockaddr*>(&address_), sizeof(address_)) == 0 &&
            ::listen(fd_, 0) == 0,
        "a loopback port can be listened on");
    for (int i = 0; i < 8; ++i) {
      const int filler = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      static_cast<void>(
          ::connect(filler, reinterpret_cast<const sockaddr*>(&address_), sizeof(address_)));
      fillers_.push_back(filler);
    }
  }
  ~DeadListener() {
    for (const int filler : fillers_) ::close(filler);
    ::close(fd_);
  }
  DeadListener(const DeadListener&) = delete;
  DeadListener& operator=(const DeadListener&) = delete;

 private:
  const int fd_;
  sockaddr_in address_{};
  std::vector<int> fillers_;
};

class NamesTest : public testing::Test {
 protected:
  NamesTest() {
    server_ = *ServerBuilder().AddService(&probe_).Listen("tcp:127.0.0.1:0").Start();
    const std::string endpoint = server_->endpoints()[0];
    port_ = static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1)));
  }
  std::shared_ptr<Channel> ChannelTo(const std::string& host, absl::Duration timeout = kSoon) {
    ChannelOptions options;
    options.connect_timeout = timeout;
    options.backoff.initial = options.backoff.max = absl::Hours(1);
    return *Channel::Create(absl::StrCat("tcp:", host, ":", port_), options);
  }
  static PendingCall<Probe::EchoResults> Send(const std::shared_ptr<Channel>& channel) {
    auto request = ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)});
    request->setText("x");
    return request.Send();
  }

  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  uint16_t port_ = 0;
};

TEST_F(NamesTest, SlowResolverHoldsUpNobodyElseOnTheLoop) {
  Names::The().Set("slow.mi7.test", {"127.0.0.1"});
  Names::The().Hold("slow.mi7.test");
  const std::shared_ptr<Channel> slow = ChannelTo("slow.mi7.test");
  auto waiting = Send(slow);
  ASSERT_TRUE(Names::The().AwaitLookups(1));
  // The loop connects another channel, and delivers an answer to a callback.
  const std::shared_ptr<Channel> other = ChannelTo("127.0.0.1");
  EXPECT_THAT(other->Connect(Deadline::After(kSoon)), IsOk());
  absl::Notification done;
  Send(other).Then([&](EchoResult result) {
    EXPECT_THAT(result, IsOk());
    done.Notify();
  });
  EXPECT_TRUE(Happens(done));
  EXPECT_EQ(slow->state(), ChannelState::kConnecting);
  Names::The().Release("slow.mi7.test");
  EXPECT_THAT(waiting.Wait(), IsOk());
}

TEST_F(NamesTest, ConnectingEndsAtItsTimeoutWhileANameIsResolved) {
  Names::The().Set("stuck.mi7.test", {"127.0.0.1"});
  Names::The().Hold("stuck.mi7.test");
  const std::shared_ptr<Channel> channel = ChannelTo("stuck.mi7.test", absl::Milliseconds(500));
  const Deadline timeout = Deadline::After(absl::Milliseconds(500));
  const EchoResult result = Send(channel).Wait();
  EXPECT_TRUE(timeout.passed());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kUnavailable,
                               HasSubstr("while resolving 'stuck.mi7.test'")));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
  Names::The().Release("stuck.mi7.test");
  EXPECT_TRUE(Names::The().AwaitLookups(0));
}

// Whether nothing holds the channel any more, long before its attempt to connect would time out.
testing::AssertionResult IsFree(const std::weak_ptr<Channel>& channel) {
  const Deadline patience = Deadline::After(kSoon / 2);
  while (!channel.expired()) {
    if (patience.passed()) return testing::AssertionFailure() << "something holds the channel";
    std::this_thread::yield();
  }
  return testing::AssertionSuccess();
}

TEST_F(NamesTest, CloseEndsTheResolvingOfAName) {
  Names::The().Set("close.mi7.test", {"127.0.0.1"});
  Names::The().Hold("close.mi7.test");
  std::shared_ptr<Channel> channel = ChannelTo("close.mi7.test");
  {
    auto call = Send(channel);
    ASSERT_TRUE(Names::The().AwaitLookups(1));
    channel->Close();
    EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kCancelled));
  }
  const std::weak_ptr<Channel> watch = channel;
  channel = nullptr;
  EXPECT_TRUE(IsFree(watch));
  Names::The().Release("close.mi7.test");
  EXPECT_TRUE(Names::The().AwaitLookups(0));
  EXPECT_EQ(server_->connection_count(), 0u);
}

TEST_F(NamesTest, CloseEndsConnectingToAHostThatDoesNotAnswer) {
  const DeadListener dead("127.0.0.2", port_);
  std::shared_ptr<Channel> channel = ChannelTo("127.0.0.2");
  {
    auto call = Send(channel);
    channel->Close();
    EXPECT_THAT(call.Wait(), StatusIs(absl::StatusCode::kCancelled));
  }
  const std::weak_ptr<Channel> watch = channel;
  channel = nullptr;
  EXPECT_TRUE(IsFree(watch));
}

TEST_F(NamesTest, UnknownNameIsUnavailableAndNamed) {
  EXPECT_THAT(Send(ChannelTo("unknown.mi7.test")).Wait(),
              StatusIs(absl::StatusCode::kUnavailable,
                       HasSubstr("host name 'unknown.mi7.test' not found")));
}

TEST_F(NamesTest, AddressesAreTriedInTheirOrder) {
  // Nobody listens at the first one; of the other two the earlier one is taken.
  const auto second =
      *ServerBuilder().AddService(&probe_).Listen(absl::StrCat("tcp:127.0.0.3:", port_)).Start();
  Names::The().Set("several.mi7.test", {"127.0.0.2", "127.0.0.3", "127.0.0.1"});
  const std::shared_ptr<Channel> channel = ChannelTo("several.mi7.test");
  EXPECT_THAT(Send(channel).Wait(), IsOk());
  EXPECT_THAT(channel->Describe(), HasSubstr(absl::StrCat("to tcp:127.0.0.3:", port_)));
  EXPECT_EQ(second->connection_count(), 1u);
  EXPECT_EQ(server_->connection_count(), 0u);
}

TEST_F(NamesTest, WhenAllRefuseTheErrorNamesEach) {
  Names::The().Set("none.mi7.test", {"127.0.0.2", "127.0.0.3", "127.0.0.4"});
  const EchoResult result = Send(ChannelTo("none.mi7.test")).Wait();
  EXPECT_THAT(
      result,
      StatusIs(absl::StatusCode::kUnavailable,
               AllOf(StartsWith("Probe.echo: connecting to tcp:none.mi7.test:"),
                     HasSubstr(absl::StrCat("127.0.0.2:", port_, ": Connection refused")),
                     HasSubstr(absl::StrCat("127.0.0.3:", port_, ": Connection refused")),
                     HasSubstr(absl::StrCat("127.0.0.4:", port_, ": Connection refused")))));
  EXPECT_THAT(result, OutcomeIs(CallOutcome::kNotSent));
}

TEST_F(NamesTest, DeadFirstAddressLeavesTimeForTheNext) {
  const DeadListener dead("127.0.0.2", port_);
  Names::The().Set("half-dead.mi7.test", {"127.0.0.2", "127.0.0.1"});
  const std::shared_ptr<Channel> channel = ChannelTo("half-dead.mi7.test", absl::Seconds(4));
  EXPECT_THAT(channel->Connect(Deadline::After(kSoon)), IsOk());
  EXPECT_THAT(channel->Describe(), HasSubstr(absl::StrCat("to tcp:127.0.0.1:", port_)));
}

TEST_F(NamesTest, WhenAllAreDeadTheErrorNamesEach) {
  const DeadListener first("127.0.0.2", port_), second("127.0.0.3", port_);
  Names::The().Set("dead.mi7.test", {"127.0.0.2", "127.0.0.3"});
  const Deadline timeout = Deadline::After(absl::Milliseconds(400));
  const absl::Status status =
      ChannelTo("dead.mi7.test", absl::Milliseconds(400))->Connect(Deadline::After(kSoon));
  EXPECT_TRUE(timeout.passed());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kUnavailable,
                               AllOf(HasSubstr(absl::StrCat("127.0.0.2:", port_)),
                                     HasSubstr(absl::StrCat("127.0.0.3:", port_)))));
}

}  // namespace
}  // namespace mi7
