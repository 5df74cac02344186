#include "transport/local/rendezvous.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/mutex.h"
#include "transport/local/peer_policy.h"
#include "transport/local/testing.h"
#include "transport/stream/testing.h"
#include "transport/tcp/tcp_connector.h"
#include "transport/unix/unix_connector.h"
#include "transport/unix/unix_kind.h"
#include "transport/unix/unix_listener.h"

namespace mi7::transport::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

// --- A carrier: streams over the rendezvous' socket ---

std::function<absl::Status(int)> Admit(const TransportOptions& options) {
  return AdmitPeers([policy = options.local->peers](const PeerCredentials& peer) {
    return CheckPeer(policy, peer);
  });
}

absl::StatusOr<std::unique_ptr<Listener>> ListenLocal(SocketFile file,
                                                      const std::vector<EventLoop*>& loops,
                                                      const TransportOptions& options,
                                                      AcceptCallback on_accept) {
  const std::string path = file.path();
  return UnixListenOn(std::move(file), path, *Endpoint::Parse("unix:" + path),
                      {.instance_id = options.instance_id, .admit = Admit(options)}, loops, options,
                      std::move(on_accept));
}

void ConnectLocal(UniqueFd socket, const std::string& path, EventLoop* loop,
                  const TransportOptions& options, Deadline deadline,
                  absl::AnyInvocable<void(absl::StatusOr<StreamMade>)> done) {
  UnixConnectTo({.path = path, .socket = std::move(socket), .endpoint = "the rendezvous"},
                {.instance_id = {}, .admit = Admit(options)}, loop, options, deadline,
                std::move(done));
}

const LocalCarrier& Carrier() {
  static const auto& carrier = *new LocalCarrier{ListenLocal, ConnectLocal};
  return carrier;
}

// --- Servers and clients ---

TransportOptions In(const std::string& runtime_dir, bool shared_memory = true) {
  LocalOptions local;
  local.runtime_dir = runtime_dir;
  local.shared_memory = shared_memory;
  TransportOptions options;
  options.local = ShareLocalOptions(local);
  return options;
}

// A mi7:// server, whose connections record.
class Server {
 public:
  explicit Server(const TransportOptions& options, uint16_t port = 0) : loop_(NewLoop()) {
    const Endpoint endpoint = *Endpoint::Parse(absl::StrCat("mi7://127.0.0.1:", port));
    auto listening = RendezvousListen(endpoint, Carrier(), {loop_.get()}, options,
                                      [this](std::shared_ptr<Connection> connection) {
                                        auto receiver = std::make_shared<Recorder>();
                                        connection->Start(receiver);
                                        absl::MutexLock lock(&mutex_);
                                        accepted_.emplace_back(connection, receiver);
                                      });
    MI7_CHECK(listening.ok(), "a test can listen on loopback");
    listener_ = *std::move(listening);
  }
  ~Server() {
    listener_->Close();
    for (auto& [connection, receiver] : accepted_) {
      connection->Close(absl::OkStatus());
      static_cast<void>(receiver->WaitClosed());
    }
  }
  Listener& listener() { return *listener_; }
  const Endpoint& endpoint() const { return listener_->endpoint(); }
  std::shared_ptr<Recorder> Accepted(size_t n) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, n] { return accepted_.size() > n; };
    MI7_CHECK(mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience), "it is accepted");
    return accepted_[n].second;
  }
  size_t accepted_count() {
    absl::MutexLock lock(&mutex_);
    return accepted_.size();
  }

 private:
  std::unique_ptr<EventLoop> loop_;
  absl::Mutex mutex_;
  std::vector<std::pair<std::shared_ptr<Connection>, std::shared_ptr<Recorder>>> accepted_;
  std::unique_ptr<Listener> listener_;
};

// What became of one attempt.
struct Attempt {
  absl::Status status;
  std::string transport;
  std::string why;
};

class RendezvousTest : public ::testing::Test {
 protected:
  Attempt Connect(const Endpoint& endpoint, const TransportOptions& options,
                  Deadline deadline = Deadline::After(kPatience)) {
    Completion done;
    Attempt attempt;
    auto receiver = std::make_shared<Recorder>();
    RendezvousConnect(endpoint, Carrier(), loop_.get(), options, deadline,
                      [&](absl::StatusOr<std::shared_ptr<Connection>> made, std::string why) {
                        attempt.status = made.status();
                        attempt.why = std::move(why);
                        if (made.ok()) {
                          attempt.transport = (*made)->info().transport;
                          (*made)->Start(receiver);
                          (*made)->Close(absl::OkStatus());
                        }
                        done.Complete();
                      });
    EXPECT_EQ(done.Sleep(Deadline::After(kPatience)), Completion::Woken::kDone);
    if (attempt.status.ok()) {
      EXPECT_EQ(receiver->WaitClosed(), absl::OkStatus());
    }
    return attempt;
  }
  Attempt Connect(Server& server) { return Connect(server.endpoint(), In(directory_.path())); }

  // The name that whoever owns a TCP endpoint gives.
  InstanceId NameOf(const Endpoint& endpoint) {
    Completion done;
    InstanceId name;
    TcpConnectNamed(endpoint, loop_.get(), {}, Deadline::After(kPatience),
                    [&](absl::StatusOr<StreamMade> made) {
                      if (made.ok()) name = made->peer;
                      done.Complete();
                    });
    EXPECT_EQ(done.Sleep(Deadline::After(kPatience)), Completion::Woken::kDone);
    return name;
  }

  // What somebody else puts where a server's rendezvous would be.
  absl::StatusOr<SocketFile> Forge(const Endpoint& endpoint) {
    return SocketFile::Listen(*OpenRuntimeDir(directory_.path()),
                              NameOf(endpoint).ToString() + ".sock", {});
  }

  const TemporaryDirectory directory_;
  std::unique_ptr<EventLoop> loop_ = NewLoop();
};

TEST_F(RendezvousTest, ServerIsMetAtItsRendezvousAndTheTcpConnectionIsDropped) {
  Server server(In(directory_.path()));
  EXPECT_THAT(directory_.names(), ElementsAre(NameOf(server.endpoint()).ToString() + ".sock"));
  EXPECT_THAT(server.listener().Describe(),
              absl::StrCat(server.endpoint().ToString(), " (TCP, and shared memory at ",
                           directory_.path(), "/", directory_.names()[0], ")"));
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.status, absl::OkStatus());
  EXPECT_EQ(attempt.transport, "unix");
  EXPECT_EQ(attempt.why, "");
  // NameOf's, the attempt's over TCP, the attempt's.
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(server.Accepted(i)->WaitClosed(), absl::OkStatus()) << i;
}

TEST_F(RendezvousTest, EveryListenerHasANameOfItsOwn) {
  Server one(In(directory_.path()));
  Server two(In(directory_.path()));
  EXPECT_EQ(directory_.names().size(), 2u);
  EXPECT_NE(NameOf(one.endpoint()), NameOf(two.endpoint()));
  EXPECT_EQ(Connect(one).transport, "unix");
  one.Accepted(2);  // waits for the last one
  two.Accepted(0);
  EXPECT_EQ(one.accepted_count(), 3u);
  EXPECT_EQ(two.accepted_count(), 1u) << "asked for its name only";
}

TEST_F(RendezvousTest, ClosedServerLeavesNoFile) {
  Server server(In(directory_.path()));
  EXPECT_THAT(directory_.names(), ::testing::SizeIs(1));
  server.listener().Close();
  EXPECT_THAT(directory_.names(), IsEmpty());
}

TEST_F(RendezvousTest, RemovedRendezvousMeansTcpAndAReason) {
  Server server(In(directory_.path()));
  ASSERT_EQ(::unlink((directory_ / directory_.names()[0]).c_str()), 0);
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why, "no rendezvous of this server in " + directory_.path() +
                             " (it offers none, or is of another user or container, or has another "
                             "runtime directory)");
}

TEST_F(RendezvousTest, ClientWithAnotherRuntimeDirectoryStaysOnTcp) {
  Server server(In(directory_.path()));
  const TemporaryDirectory other;
  const Attempt attempt = Connect(server.endpoint(), In(other.path()));
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_THAT(attempt.why, StartsWith("no rendezvous of this server in " + other.path()));
  const Attempt none = Connect(server.endpoint(), In(other / "none"));
  EXPECT_EQ(none.transport, "tcp");
  EXPECT_THAT(none.why, StartsWith("no rendezvous of this server in " + other / "none"));
}

TEST_F(RendezvousTest, SwitchedOffMeansTcp) {
  Server server(In(directory_.path()));
  const Attempt attempt = Connect(server.endpoint(), In(directory_.path(), false));
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why, "it is switched off (LocalOptions::shared_memory)");

  const TemporaryDirectory empty;
  Server plain(In(empty.path(), false));
  EXPECT_THAT(empty.names(), IsEmpty());
  EXPECT_EQ(plain.listener().Describe(),
            plain.endpoint().ToString() +
                " (TCP alone; no shared memory: it is switched off (LocalOptions::shared_memory))");
  EXPECT_EQ(Connect(plain.endpoint(), In(empty.path())).transport, "tcp");
}

// --- What others put there ---

TEST_F(RendezvousTest, ForgedRendezvousIsNoticedByItsName) {
  Server server(In(directory_.path(), false));
  absl::StatusOr<SocketFile> forged = Forge(server.endpoint());
  ASSERT_TRUE(forged.ok()) << forged.status();
  TransportOptions forger;
  forger.instance_id = InstanceId::Random();
  auto loop = NewLoop();
  auto recorder = std::make_shared<Recorder>();
  auto listening =
      ListenLocal(*std::move(forged), {loop.get()}, forger,
                  [&](std::shared_ptr<Connection> connection) { connection->Start(recorder); });
  ASSERT_TRUE(listening.ok());
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why,
            absl::StrCat("what listens at ", directory_.path(), "/", directory_.names()[0],
                         " is another server, named ", forger.instance_id.ToString()));
  EXPECT_EQ(recorder->WaitClosed(), absl::OkStatus());
  EXPECT_EQ(recorder->messages(), 0) << "not a word was sent to it";
}

TEST_F(RendezvousTest, StaleSocketMeansTcpAndAReason) {
  Server server(In(directory_.path(), false));
  const std::string name = directory_ / (NameOf(server.endpoint()).ToString() + ".sock");
  LeaveStale(name);
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why, "socket " + name + ": nobody listens there any more (connection refused)");
}

// After a second; machines are slow.
TEST_F(RendezvousTest, SilentRendezvousIsGivenUpWithinSeconds) {
  Server server(In(directory_.path(), false));
  absl::StatusOr<SocketFile> silent = Forge(server.endpoint());
  ASSERT_TRUE(silent.ok());
  const int64_t start_ns = MonotonicNanos();
  const Attempt attempt = Connect(server);
  EXPECT_LT(MonotonicNanos() - start_ns, 5'000'000'000);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_THAT(attempt.why, HasSubstr("not done in time"));
}

TEST_F(RendezvousTest, AttemptIsGivenUpWhileTheRendezvousIsSilent) {
  Server server(In(directory_.path(), false));
  absl::StatusOr<SocketFile> silent = Forge(server.endpoint());
  ASSERT_TRUE(silent.ok());
  std::stop_source cancel;
  TransportOptions options = In(directory_.path());
  options.cancel = cancel.get_token();
  // Once somebody knocks at the rendezvous.
  std::thread canceller([&] {
    pollfd waiting{silent->fd(), POLLIN, 0};
    static_cast<void>(::poll(&waiting, 1, 20'000));
    cancel.request_stop();
  });
  const Attempt attempt = Connect(server.endpoint(), options);
  canceller.join();
  EXPECT_EQ(attempt.status.code(), absl::StatusCode::kCancelled);
}

TEST_F(RendezvousTest, RendezvousThatSpeaksSomethingElseMeansTcp) {
  Server server(In(directory_.path(), false));
  absl::StatusOr<SocketFile> other = Forge(server.endpoint());
  ASSERT_TRUE(other.ok());
  std::thread server_of_http([&other] {
    UniqueFd accepted;
    while (!accepted) accepted = UniqueFd(::accept(other->fd(), nullptr, nullptr));
    EXPECT_EQ(::write(accepted.get(), "HTTP/1.1 400 Bad Request\r\n\r\n", 28), 28);
  });
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_THAT(attempt.why, HasSubstr("HTTP"));
  server_of_http.join();
}

TEST_F(RendezvousTest, FileInPlaceOfTheSocketMeansTcp) {
  Server server(In(directory_.path(), false));
  const std::string path = directory_ / (NameOf(server.endpoint()).ToString() + ".sock");
  ASSERT_EQ(::mkdir(path.c_str(), 0700), 0);
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why, path + " is no socket");
}

// --- Directories that cannot be trusted ---

TEST_F(RendezvousTest, DirectoryOpenToOthersIsUsedByNobody) {
  Server server(In(directory_.path()));
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0755), 0);
  const std::string why = "runtime directory " + directory_.path() +
                          ": its mode is 0755, which lets others in; run chmod 700 '" +
                          directory_.path() + "', or set MI7_RUNTIME_DIR to another directory";
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why, why);

  std::vector<std::string> warnings;
  SetLogSink([&](LogLevel level, absl::string_view text) {
    if (level == LogLevel::kWarning) warnings.emplace_back(text);
  });
  Server late(In(directory_.path()));
  SetLogSink(nullptr);
  EXPECT_THAT(warnings, ElementsAre(late.endpoint().ToString() + ": no shared memory: " + why));
  EXPECT_EQ(late.listener().Describe(),
            late.endpoint().ToString() + " (TCP alone; no shared memory: " + why + ")");
  EXPECT_EQ(Connect(late).transport, "tcp");
}

// --- Peers that are not allowed ---

TransportOptions Refusing(const std::string& runtime_dir) {
  LocalOptions local;
  local.runtime_dir = runtime_dir;
  local.peers = PeerPolicy::Nobody();
  TransportOptions options;
  options.local = ShareLocalOptions(local);
  return options;
}

std::string RefusesUs() {
  return absl::StrCat("the peer (pid ", ::getpid(), ", uid ", ::geteuid(), ", gid ", ::getegid(),
                      ") is not allowed: the peer policy admits nobody");
}

TEST_F(RendezvousTest, ClientThatRefusesTheServerStaysOnTcp) {
  Server server(In(directory_.path()));
  const Attempt attempt = Connect(server.endpoint(), Refusing(directory_.path()));
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why, "connecting to the rendezvous: " + RefusesUs());
}

TEST_F(RendezvousTest, ServerThatRefusesTheClientIsReachedOverTcp) {
  Mutex mutex;
  CondVar told;
  std::vector<std::string> refused;
  TransportOptions options = Refusing(directory_.path());
  options.on_refused = [&](const std::string&, const absl::Status& why) {
    MutexLock lock(&mutex);
    refused.emplace_back(why.message());
    told.NotifyAll();
  };
  Server server(options);
  const Attempt attempt = Connect(server);
  EXPECT_EQ(attempt.transport, "tcp");
  EXPECT_EQ(attempt.why, "connecting to the rendezvous: peer closed: " + RefusesUs());
  MutexLock lock(&mutex);
  // The client may hear of it first.
  told.WaitUntil(mutex, Deadline::After(absl::Seconds(30)), [&] { return !refused.empty(); });
  EXPECT_THAT(refused, ElementsAre(RefusesUs()));
}

TEST_F(RendezvousTest, RelativeDirectoryIsTold) {
  Server server(In(directory_.path()));
  EXPECT_EQ(Connect(server.endpoint(), In("run")).why,
            "the runtime directory is 'run', must be an absolute path");
}

// --- Servers that die ---

// Runs a mi7:// server in another process until it is killed; the port that it got.
pid_t ForkServer(const TransportOptions& options, uint16_t& port) {
  std::array<int, 2> pipe;
  MI7_CHECK(::pipe(pipe.data()) == 0, "pipe");
  const pid_t child = Fork([&] {
    Server server(options);
    const uint16_t mine = server.endpoint().port;
    if (::write(pipe[1], &mine, sizeof(mine)) != sizeof(mine)) return 1;
    for (;;) ::pause();
  });
  MI7_CHECK(::read(pipe[0], &port, sizeof(port)) == sizeof(port), "the server started");
  for (const int fd : pipe) ::close(fd);
  return child;
}

// In a process of its own, so that there are no threads when it forks.
TEST(RendezvousProcessTest, ServerThatTookThePortOfAKilledOneIsTheOneThatIsMet) {
  EXPECT_EQ(WaitFor(Fork([] {
              const TemporaryDirectory directory;
              uint16_t port = 0;
              const pid_t killed = ForkServer(In(directory.path()), port);
              const std::vector<std::string> before = directory.names();
              if (before.size() != 1) return 1;
              ::kill(killed, SIGKILL);
              WaitFor(killed);
              if (directory.names() != before) return 2;  // what kill -9 leaves
              Server successor(In(directory.path()), port);
              // Swept by the one that came next.
              const std::vector<std::string> after = directory.names();
              if (after.size() != 1 || after == before) return 3;
              auto loop = NewLoop();
              Completion done;
              std::string transport;
              RendezvousConnect(
                  successor.endpoint(), Carrier(), loop.get(), In(directory.path()),
                  Deadline::After(kPatience),
                  [&](absl::StatusOr<std::shared_ptr<Connection>> made, const std::string&) {
                    if (made.ok()) transport = (*made)->info().transport;
                    done.Complete();
                  });
              if (done.Sleep(Deadline::After(kPatience)) != Completion::Woken::kDone) return 4;
              successor.Accepted(1);
              return transport == "unix" ? 0 : 5;
            })),
            0);
}

TEST_F(RendezvousTest, UnreachableServerIsAnError) {
  uint16_t port;
  {
    Server gone(In(directory_.path()));
    port = gone.endpoint().port;
  }
  const Attempt attempt =
      Connect(*Endpoint::Parse(absl::StrCat("mi7://127.0.0.1:", port)), In(directory_.path()));
  EXPECT_EQ(attempt.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(attempt.status.message()),
              AllOf(StartsWith(absl::StrCat("connecting to mi7://127.0.0.1:", port)),
                    EndsWith("Connection refused")));
}

TEST_F(RendezvousTest, PortInUseLeavesNoRendezvous) {
  Server server(In(directory_.path(), false));
  const auto second =
      RendezvousListen(server.endpoint(), Carrier(), {loop_.get()}, In(directory_.path()),
                       [](const std::shared_ptr<Connection>&) {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(directory_.names(), IsEmpty());
}

TEST(RuntimeDirTest, AClientThatFindsTheNameOfAKilledServerRemovesItAndOthers) {
  const TemporaryDirectory directory;
  LeaveStale(directory / "shm-gone.sock");
  LeaveStale(directory / "0123456789abcdef0123456789abcdef.sock");
  LeaveStale(directory / "of-somebody-else");
  std::string path;
  const auto socket =
      ConnectInRuntimeDir(*In(directory.path()).local, "shm-gone.sock", "server", path);
  EXPECT_EQ(socket.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(directory.names(), ElementsAre("of-somebody-else"));
}

}  // namespace
}  // namespace mi7::transport::testing
