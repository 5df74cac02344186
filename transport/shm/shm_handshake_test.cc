// How two sides come to shared memory over a Unix socket, and what a peer can do wrong on the way:
// the exact status, and no descriptor is left behind.

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <capnp/any.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "transport/copy_counter.h"
#include "transport/shm/shm_connector.h"
#include "transport/shm/shm_listener.h"
#include "transport/stream/raw_peer.h"
#include "transport/stream/testing.h"

namespace mi7::transport::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

int OpenDescriptors() {
  int count = 0;
  DIR* const directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

UniqueFd Null() { return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

std::string Greeting(bool shared_memory) {
  return Opening() + BytesOf(MakeHello(Limits{}, {}, shared_memory ? kFeatureSharedMemory : 0));
}

class ShmHandshakeTest : public ::testing::Test {
 protected:
  ShmHandshakeTest() {
    refusals_.Attach(transport_);
    endpoint_ = NewEndpoint(Endpoint::Scheme::kUnix);
  }
  ~ShmHandshakeTest() override {
    if (listener_) listener_->Close();
    for (const auto& connection : accepted()) connection->Close(absl::OkStatus());
    for (const auto& receiver : receivers_) static_cast<void>(receiver->WaitClosed());
  }

  void Listen(const ShmTerms& terms = {}) {
    Endpoint shm = endpoint_;
    shm.scheme = Endpoint::Scheme::kShm;
    auto listener = ShmListen(shm, {loop_.get()}, transport_, terms, Acceptor());
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  void ListenWithoutSharedMemory() {
    auto listener = UnixListen(endpoint_, {loop_.get()}, transport_, {}, Acceptor());
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  AcceptCallback Acceptor() {
    return [this](std::shared_ptr<Connection> connection) {
      auto receiver = std::make_shared<Recorder>();
      connection->Start(receiver);
      absl::MutexLock lock(&mutex_);
      accepted_.push_back(std::move(connection));
      receivers_.push_back(std::move(receiver));
    };
  }
  std::shared_ptr<Recorder> last_receiver() {
    absl::MutexLock lock(&mutex_);
    return receivers_.back();
  }
  absl::StatusOr<StreamMade> Connect(ShmNeed need, const ShmTerms& terms = {}) {
    absl::Notification done;
    absl::StatusOr<StreamMade> result = absl::UnknownError("no result");
    ShmConnectTo({.path = endpoint_.path, .socket = {}, .endpoint = "shm:test"}, need, loop_.get(),
                 {}, terms, Deadline::After(kPatience), [&](absl::StatusOr<StreamMade> made) {
                   result = std::move(made);
                   done.Notify();
                 });
    MI7_CHECK(done.WaitForNotificationWithTimeout(kPatience), "ShmConnectTo ends");
    return result;
  }
  // What a client is told that says `greeting` with `descriptors`.
  absl::Status Refusal(const std::string& greeting, const std::vector<int>& descriptors) {
    const int before = OpenDescriptors();
    absl::Status told;
    {
      RawPeer peer = RawPeer::ConnectTo(endpoint_);
      if (descriptors.empty()) {
        peer.Send(greeting);
      } else {
        peer.SendWith(greeting, descriptors);
      }
      told = CloseIn(peer.Read());
    }
    EXPECT_TRUE(ComesBackTo(before));
    return told;
  }
  // What our client says of a server that answers with this.
  absl::Status AnswerOf(const std::string& greeting, const std::vector<int>& descriptors) {
    RawServer server(Endpoint::Scheme::kUnix);
    endpoint_ = server.endpoint();
    const int before = OpenDescriptors();
    std::thread answering([&] {
      RawPeer peer = server.Accept();
      if (descriptors.empty()) {
        peer.Send(greeting);
      } else {
        peer.SendWith(greeting, descriptors);
      }
      peer.Read();
    });
    const absl::Status said = Connect(ShmNeed::kPreferred).status();
    answering.join();
    EXPECT_TRUE(ComesBackTo(before));
    return said;
  }
  // The loop closes what it holds a moment after it told the outcome.
  ::testing::AssertionResult ComesBackTo(int descriptors) {
    const Deadline deadline = Deadline::After(kPatience);
    while (OpenDescriptors() != descriptors) {
      if (deadline.passed()) {
        return ::testing::AssertionFailure()
               << OpenDescriptors() << " descriptors are open, " << descriptors << " were";
      }
      std::this_thread::yield();
    }
    return ::testing::AssertionSuccess();
  }
  std::vector<std::shared_ptr<Connection>> accepted() {
    absl::MutexLock lock(&mutex_);
    return accepted_;
  }
  std::shared_ptr<Connection> WaitForAccepted(size_t count = 1) {
    absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return accepted_.size() >= count;
    };
    MI7_CHECK(mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience), "it is accepted");
    return accepted_.back();
  }

  Refusals refusals_;
  TransportOptions transport_;
  Endpoint endpoint_;
  std::unique_ptr<EventLoop> loop_ = NewLoop();
  std::unique_ptr<Listener> listener_;
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Connection>> accepted_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Recorder>> receivers_;
};

TEST_F(ShmHandshakeTest, BothSidesComeToSharedMemoryAndKeepOneDescriptorEach) {
  Listen();
  const int before = OpenDescriptors();
  absl::StatusOr<StreamMade> made = Connect(ShmNeed::kRequired);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->declined, "");
  const auto accepted = WaitForAccepted();
  EXPECT_TRUE(ComesBackTo(before + 2)) << "the two ends of the socket";
  for (const ConnectionInfo& info : {made->connection->info(), accepted->info()}) {
    EXPECT_EQ(info.transport, "shm");
    EXPECT_EQ(info.negotiated.features, kFeatureSharedMemory | kFeaturesOfAll);
  }
  EXPECT_EQ(made->connection->info().peer, "shm:test");
  EXPECT_EQ(accepted->info().local, "shm:" + endpoint_.path);
  EXPECT_EQ(accepted->info().peer, made->connection->info().local);
}

TEST_F(ShmHandshakeTest, ClientThatOffersNothingGetsAStream) {
  Listen();
  auto connected = ConnectTo(endpoint_, loop_.get());
  ASSERT_TRUE(connected.ok()) << connected.status();
  EXPECT_EQ((*connected)->info().transport, "unix");
  EXPECT_EQ((*connected)->info().negotiated.features, kFeaturesOfAll);
  EXPECT_EQ(WaitForAccepted()->info().transport, "unix");
}

TEST_F(ShmHandshakeTest, ServerWithoutSharedMemoryDeclinesAndSaysWhy) {
  ListenWithoutSharedMemory();
  const int before = OpenDescriptors();
  {
    absl::StatusOr<StreamMade> preferred = Connect(ShmNeed::kPreferred);
    ASSERT_TRUE(preferred.ok()) << preferred.status();
    EXPECT_EQ(preferred->connection->info().transport, "unix");
    EXPECT_EQ(preferred->declined,
              "the server takes no shared memory: shared memory is not offered at this socket");
    EXPECT_TRUE(ComesBackTo(before + 2));
  }
  EXPECT_EQ(Connect(ShmNeed::kRequired).status(),
            absl::FailedPreconditionError(
                "connecting to shm:test: the server takes no shared memory: shared memory is not "
                "offered at this socket"));
}

TEST_F(ShmHandshakeTest, ServerThatCannotUseTheOfferDeclinesAndSaysWhy) {
  ShmTerms small;
  small.memory = std::make_shared<const ShmOptions>(
      ShmOptions{.slot_classes = {{4096, 4}}, .peer_bytes_max = 1 << 20});
  Listen(small);
  absl::StatusOr<StreamMade> preferred = Connect(ShmNeed::kPreferred);
  ASSERT_TRUE(preferred.ok()) << preferred.status();
  EXPECT_EQ(preferred->connection->info().transport, "unix");
  EXPECT_THAT(preferred->declined, HasSubstr("peer_bytes_max"));
  EXPECT_THAT(std::string(Connect(ShmNeed::kRequired).status().message()),
              AllOf(HasSubstr("the server takes no shared memory: "), HasSubstr("peer_bytes_max")));
}

// A peer could change what it has sent while it is read.
TEST_F(ShmHandshakeTest, PayloadsOfPeersThatAreNotTrustedAreCopiedBeforeTheyAreRead) {
  const std::function<bool(const PeerCredentials&)> of_the_same_user;
  const auto trust = [](const PeerCredentials&) { return true; };
  const auto distrust = [](const PeerCredentials&) { return false; };
  size_t round = 0;
  for (const auto& trusts : {of_the_same_user, std::function(trust), std::function(distrust)}) {
    SCOPED_TRACE(++round);
    if (listener_) listener_->Close();
    endpoint_ = NewEndpoint(Endpoint::Scheme::kUnix);
    ShmTerms terms;
    terms.trusts = trusts;
    Listen(terms);
    absl::StatusOr<StreamMade> made = Connect(ShmNeed::kRequired);
    ASSERT_TRUE(made.ok()) << made.status();
    const auto at_client = std::make_shared<Recorder>();
    made->connection->Start(at_client);
    WaitForAccepted(round);
    absl::StatusOr<OutgoingMessage> message = made->connection->Reserve(10'000);
    ASSERT_TRUE(message.ok());
    (*message)->header.type = FrameType::kCall;
    (*message)->header.target = TargetKind::kService;
    (*message)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(10'000);
    const uint64_t before = copied_payload_bytes.load();
    ASSERT_TRUE(made->connection->Send(*std::move(message)).ok());
    ASSERT_TRUE(last_receiver()->WaitMessages(1));
    const uint64_t copied = copied_payload_bytes.load() - before;
    if (round == 3) {
      EXPECT_GE(copied, 10'000u);
    } else {
      EXPECT_EQ(copied, 0u);
    }
    made->connection->Close(absl::OkStatus());
    static_cast<void>(at_client->WaitClosed());
  }
}

TEST_F(ShmHandshakeTest, OptionsThatAreNotSoundAreInvalid) {
  ShmTerms none;
  none.memory = std::make_shared<const ShmOptions>(ShmOptions{.slot_classes = {}});
  EXPECT_EQ(Connect(ShmNeed::kRequired, none).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ShmListen(endpoint_, {loop_.get()}, {}, none, Acceptor()).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ShmHandshakeTest, ClientsDescriptorsAreCountedAndLookedAt) {
  Listen();
  const UniqueFd null = Null();
  const auto wrong_count = [](const std::string& came, int expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("peer closed: peer's hello came with ", came, ", must be ", expected));
  };
  EXPECT_EQ(Refusal(Greeting(true), {}), wrong_count("0 descriptors", 1));
  EXPECT_EQ(Refusal(Greeting(true), {null.get(), null.get()}), wrong_count("2 descriptors", 1));
  EXPECT_EQ(Refusal(Greeting(true), std::vector<int>(20, null.get())),
            wrong_count("more than 4 descriptors", 1));
  EXPECT_EQ(Refusal(Greeting(false), {null.get()}), wrong_count("1 descriptor", 0));
  const absl::Status no_memory = Refusal(Greeting(true), {null.get()});
  EXPECT_EQ(no_memory.code(), absl::StatusCode::kInvalidArgument) << no_memory;
  const UniqueFd unsealed(::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(unsealed.get(), 4096), 0);
  const absl::Status may_shrink = Refusal(Greeting(true), {unsealed.get()});
  EXPECT_EQ(may_shrink.code(), absl::StatusCode::kInvalidArgument) << may_shrink;
  EXPECT_TRUE(Connect(ShmNeed::kRequired).ok()) << "others are served";
}

TEST_F(ShmHandshakeTest, DescriptorsInPiecesAreCountedTogether) {
  Listen();
  const UniqueFd null = Null();
  const std::string greeting = Greeting(true);
  const int before = OpenDescriptors();
  {
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    peer.SendWith(greeting.substr(0, 3), {null.get()});
    peer.SendWith(greeting.substr(3, 20), {null.get()});
    peer.SendWith(greeting.substr(23), {null.get()});
    EXPECT_THAT(CloseIn(peer.Read()).ToString(),
                HasSubstr("peer's hello came with 3 descriptors, must be 1"));
  }
  {
    // A client that leaves in the middle takes nothing with it.
    RawPeer peer = RawPeer::ConnectTo(endpoint_);
    peer.SendWith(greeting.substr(0, 30), {null.get()});
    peer.CloseSending();
    EXPECT_EQ(peer.Read(), "");
  }
  EXPECT_TRUE(ComesBackTo(before));
}

TEST_F(ShmHandshakeTest, ServersDescriptorsAreCountedAndLookedAt) {
  const UniqueFd null = Null();
  const auto wrong_count = [](const std::string& came, int expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        "connecting to shm:test: peer's hello came with ", came, ", must be ", expected));
  };
  EXPECT_EQ(AnswerOf(Greeting(true), {}), wrong_count("0 descriptors", 1));
  EXPECT_EQ(AnswerOf(Greeting(true), {null.get(), null.get()}), wrong_count("2 descriptors", 1));
  EXPECT_EQ(AnswerOf(Greeting(true), std::vector<int>(64, null.get())),
            wrong_count("more than 4 descriptors", 1));
  EXPECT_EQ(AnswerOf(Greeting(false), {null.get()}), wrong_count("1 descriptor", 0));
  EXPECT_EQ(AnswerOf(Greeting(true), {null.get()}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ShmHandshakeTest, ServerWithoutAFreeDescriptorDeclines) {
  Listen();
  const int open = OpenDescriptors();
  RawPeer peer = RawPeer::ConnectTo(endpoint_);
  ASSERT_TRUE(ComesBackTo(open + 2)) << "it is accepted";
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const UniqueFd null = Null();
  rlimit low = before;
  low.rlim_cur = 3;  // nothing more can be opened; what is open stays
  // Sent before the limit, which also bounds the descriptors of a user that are on their way.
  const auto sent = std::make_shared<absl::Notification>();
  loop_->Post([sent] { sent->WaitForNotification(); });
  peer.SendWith(Greeting(true), {null.get()});
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  sent->Notify();
  const std::string answer = peer.Read(kOpeningBytes + 32);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(answer.size(), kOpeningBytes + 32);
  EXPECT_EQ(WaitForAccepted()->info().transport, "unix");
}

}  // namespace
}  // namespace mi7::transport::testing
