// Listening at and connecting to socket files: what each failure says, and what happens to the
// file.

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "transport/handshake.h"
#include "transport/stream/descriptors.h"
#include "transport/stream/testing.h"
#include "transport/unix/unix_address.h"
#include "transport/unix/unix_kind.h"

namespace mi7::transport::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class UnixSocketTest : public ::testing::Test {
 protected:
  Endpoint At(const std::string& name) const {
    Endpoint endpoint;
    endpoint.scheme = Endpoint::Scheme::kUnix;
    endpoint.path = directory_ / name;
    return endpoint;
  }
  absl::StatusOr<std::unique_ptr<Listener>> Listen(const Endpoint& endpoint,
                                                   const UnixOptions& options = {}) {
    return UnixListen(endpoint, {loop_.get()}, transport_, options,
                      [this](std::shared_ptr<Connection> connection) {
                        absl::MutexLock lock(&mutex_);
                        accepted_.push_back(std::move(connection));
                      });
  }
  absl::StatusOr<std::shared_ptr<Connection>> ConnectWith(const Endpoint& endpoint,
                                                          const UnixOptions& options,
                                                          Deadline deadline = Deadline()) {
    absl::Notification done;
    absl::StatusOr<std::shared_ptr<Connection>> result = absl::UnknownError("no result");
    UnixConnect(endpoint, loop_.get(), transport_, options, deadline,
                [&](absl::StatusOr<std::shared_ptr<Connection>> connection) {
                  result = std::move(connection);
                  done.Notify();
                });
    MI7_CHECK(done.WaitForNotificationWithTimeout(kPatience), "UnixConnect ends");
    return result;
  }
  std::vector<std::shared_ptr<Connection>> accepted() {
    absl::MutexLock lock(&mutex_);
    return accepted_;
  }
  ~UnixSocketTest() override {
    for (auto& connection : accepted()) connection->Close(absl::OkStatus());
  }

  const TemporaryDirectory directory_;
  TransportOptions transport_;
  std::unique_ptr<EventLoop> loop_ = NewLoop();
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Connection>> accepted_ ABSL_GUARDED_BY(mutex_);
};

mode_t ModeOf(const std::string& path) {
  struct stat found;
  return ::lstat(path.c_str(), &found) == 0 ? found.st_mode & 0777 : 0;
}

TEST_F(UnixSocketTest, FileIsOursAloneUnlessAskedOtherwiseAndGoesWithTheListener) {
  auto ours = Listen(At("ours"));
  auto shared = Listen(At("shared"), {.mode = 0660, .admit = {}});
  ASSERT_TRUE(ours.ok()) << ours.status();
  ASSERT_TRUE(shared.ok()) << shared.status();
  EXPECT_EQ(ModeOf(directory_ / "ours"), 0600u);
  EXPECT_EQ(ModeOf(directory_ / "shared"), 0660u);
  EXPECT_EQ((*ours)->endpoint(), At("ours"));
  EXPECT_THAT(directory_.names(), ElementsAre("ours", "shared"));
  (*ours)->Close();
  shared->reset();
  EXPECT_THAT(directory_.names(), IsEmpty());
}

TEST_F(UnixSocketTest, FileThatIsNotOursAnyMoreIsLeftWhenClosing) {
  auto listener = Listen(At("s"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  ASSERT_EQ(::unlink((directory_ / "s").c_str()), 0);
  auto other = Listen(At("s"));
  ASSERT_TRUE(other.ok()) << other.status();
  (*listener)->Close();
  EXPECT_THAT(directory_.names(), ElementsAre("s"));
  EXPECT_TRUE(ConnectTo(At("s"), loop_.get()).ok());
}

TEST_F(UnixSocketTest, LiveSocketAndOtherFilesAreLeftAlone) {
  auto listener = Listen(At("live"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(Listen(At("live")).status(),
            absl::AlreadyExistsError(absl::StrCat("listening on ", At("live").ToString(),
                                                  ": a server listens at ", directory_ / "live",
                                                  " already")));
  std::ofstream(directory_ / "file") << "kept";
  const absl::Status no_socket = Listen(At("file")).status();
  EXPECT_EQ(no_socket.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(no_socket.message()), HasSubstr("is no socket"));
  EXPECT_THAT(directory_.names(), ElementsAre("file", "live"));
}

TEST_F(UnixSocketTest, SocketOfADeadServerIsReplaced) {
  const pid_t child = Fork([this] {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto address = UnixAddress(directory_ / "s");
    return ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) == 0 &&
                   ::listen(fd.get(), 1) == 0
               ? 0
               : 1;
  });
  ASSERT_EQ(WaitFor(child), 0);
  EXPECT_EQ(ConnectTo(At("s"), loop_.get()).status().code(), absl::StatusCode::kUnavailable);
  auto listener = Listen(At("s"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(ConnectTo(At("s"), loop_.get()).ok());
}

TEST_F(UnixSocketTest, PathsThatCannotBeListenedAtSaySo) {
  const absl::Status too_long = Listen(At(std::string(100, 'x'))).status();
  EXPECT_EQ(too_long.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(too_long.message()), HasSubstr("that of a Unix socket has at most 107"));
  const absl::Status no_directory = Listen(At("none/s")).status();
  EXPECT_EQ(no_directory.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(no_directory.message()), HasSubstr(directory_ / "none"));
}

TEST_F(UnixSocketTest, LongestPathWorks) {
  const Endpoint longest = At(std::string(kSocketPathBytesMax - directory_.path().size() - 1, 'x'));
  ASSERT_EQ(longest.path.size(), kSocketPathBytesMax);
  auto listener = Listen(longest);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(ConnectTo(longest, loop_.get()).ok());
}

TEST_F(UnixSocketTest, ConnectingSaysWhatIsWrong) {
  EXPECT_EQ(ConnectTo(At("none"), loop_.get()).status(),
            absl::UnavailableError(absl::StrCat("connecting to ", At("none").ToString(),
                                                ": there is no socket file ", directory_ / "none",
                                                "; is the server running?")));
  std::ofstream(directory_ / "file") << "no socket";
  const absl::Status file = ConnectTo(At("file"), loop_.get()).status();
  EXPECT_EQ(file.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(file.message()), HasSubstr("is no socket"));
  {
    const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const auto address = UnixAddress(directory_ / "stale");
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)), 0);
  }
  const absl::Status stale = ConnectTo(At("stale"), loop_.get()).status();
  EXPECT_EQ(stale.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(stale.message()), HasSubstr("connection refused: nobody listens at"));
  const UniqueFd datagrams(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto address = UnixAddress(directory_ / "datagrams");
  ASSERT_EQ(::bind(datagrams.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)),
            0);
  const absl::Status type = ConnectTo(At("datagrams"), loop_.get()).status();
  EXPECT_EQ(type.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(type.message()), HasSubstr("a socket of another type"));
  EXPECT_EQ(ConnectTo(At(std::string(100, 'x')), loop_.get()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ConnectTo(At("none"), loop_.get(), {}, Deadline::AtNanos(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST_F(UnixSocketTest, FullBacklogIsWaitedOutUntilTheDeadline) {
  const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = UnixAddress(directory_ / "full");
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)),
            0);
  ASSERT_EQ(::listen(server.get(), 0), 0);
  std::vector<UniqueFd> waiting;
  for (;;) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
      break;
    }
    waiting.push_back(std::move(fd));
  }
  const absl::Status late =
      ConnectWith(At("full"), {}, Deadline::After(absl::Milliseconds(200))).status();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("no room for another client"));
}

TEST_F(UnixSocketTest, CredentialsAreReadOnBothSidesAndMayRefuse) {
  PeerCredentials seen_by_client;
  // By the loop, whose later clients the test does not wait for.
  struct Seen {
    absl::Mutex mutex;
    PeerCredentials peer;
  };
  const auto seen = std::make_shared<Seen>();
  auto listener = Listen(At("s"), {.mode = 0600, .admit = [seen](const PeerCredentials& peer) {
                                     absl::MutexLock lock(&seen->mutex);
                                     seen->peer = peer;
                                     return absl::OkStatus();
                                   }});
  ASSERT_TRUE(listener.ok()) << listener.status();
  UnixOptions client;
  client.admit = [&](const PeerCredentials& peer) {
    seen_by_client = peer;
    return absl::OkStatus();
  };
  ASSERT_TRUE(ConnectWith(At("s"), client).ok());
  PeerCredentials seen_by_server;
  {
    absl::MutexLock lock(&seen->mutex);
    seen_by_server = seen->peer;
  }
  for (const PeerCredentials& peer : {seen_by_server, seen_by_client}) {
    EXPECT_EQ(peer.pid, ::getpid());
    EXPECT_EQ(peer.uid, ::geteuid());
    EXPECT_EQ(peer.gid, ::getegid());
    EXPECT_EQ(peer.groups.size(), static_cast<size_t>(::getgroups(0, nullptr)));
  }
  client.admit = [](const PeerCredentials&) { return absl::PermissionDeniedError("an impostor"); };
  EXPECT_EQ(ConnectWith(At("s"), client).status(),
            absl::PermissionDeniedError(
                absl::StrCat("connecting to ", At("s").ToString(), ": an impostor")));
}

TEST_F(UnixSocketTest, RefusedClientIsToldWhyAndTheServerLogsIt) {
  absl::Notification refused;
  std::string refused_peer;
  transport_.on_refused = [&](const std::string& peer, const absl::Status&) {
    refused_peer = peer;
    refused.Notify();
  };
  auto listener = Listen(At("s"), {.mode = 0600, .admit = [](const PeerCredentials&) {
                                     return absl::PermissionDeniedError("not you");
                                   }});
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(ConnectTo(At("s"), loop_.get()).status(),
            absl::PermissionDeniedError(
                absl::StrCat("connecting to ", At("s").ToString(), ": peer closed: not you")));
  ASSERT_TRUE(refused.WaitForNotificationWithTimeout(kPatience));
  EXPECT_EQ(refused_peer, ProcessText("unix", ::getpid(), ::geteuid()));
  EXPECT_TRUE(accepted().empty());
  (*listener)->Close();
}

TEST_F(UnixSocketTest, DescriptorsSentAfterTheHandshakeAreClosed) {
  auto listener = Listen(At("s"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto address = UnixAddress(directory_ / "s");
  ASSERT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)), 0);
  OutgoingMessage hello = MakeHello(Limits{}, {});
  PieceList pieces;
  ASSERT_TRUE(FinishHeapMessage(*hello, Limits{}, pieces).ok());
  std::string greeting(reinterpret_cast<const char*>(kOpening.data()), kOpening.size());
  for (const ByteSpan& piece : pieces) {
    greeting.append(reinterpret_cast<const char*>(piece.data), piece.size);
  }
  ASSERT_EQ(::send(fd.get(), greeting.data(), greeting.size(), 0),
            static_cast<ssize_t>(greeting.size()));
  // The reading end is told of the last writing end's end.
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reading(ends[0]);
  UniqueFd writing(ends[1]);
  OutgoingMessage ping = MakeMessage(FrameType::kCall, 1, 8);
  pieces.clear();
  ASSERT_TRUE(FinishHeapMessage(*ping, Limits{}, pieces).ok());
  ASSERT_EQ(
      SendWithDescriptor(fd.get(), {static_cast<const std::byte*>(pieces[0].data), pieces[0].size},
                         writing.get()),
      static_cast<ssize_t>(pieces[0].size));
  writing.reset();
  auto receiver = std::make_shared<Recorder>();
  while (accepted().empty()) std::this_thread::yield();
  accepted()[0]->Start(receiver);
  ASSERT_TRUE(receiver->WaitMessages(1)) << "the message itself is an ordinary one";
  char byte;
  EXPECT_EQ(::read(reading.get(), &byte, 1), 0) << "nobody holds the descriptor";
  accepted()[0]->Close(absl::OkStatus());
  EXPECT_EQ(receiver->WaitClosed(), absl::OkStatus());
}

}  // namespace
}  // namespace mi7::transport::testing
