// Servers and clients of different users. Takes root.
//
// Every server and client is a process of its own, forked before there is any thread.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/local/testing.h"

namespace mi7::conformance {
namespace {

using transport::testing::Fork;
using transport::testing::TemporaryDirectory;
using transport::testing::WaitFor;

// Runs `body` in a process of uid and gid 12345; its exit status.
int AsAnother(const std::function<int()>& body) {
  return WaitFor(Fork([&body] {
    if (::setresgid(12345, 12345, 12345) != 0 || ::setresuid(12345, 12345, 12345) != 0) return 100;
    return body();
  }));
}

// Serves in a process of its own until it is killed, which the end of the object does.
class OtherServer {
 public:
  explicit OtherServer(const std::function<absl::StatusOr<std::unique_ptr<Server>>()>& start) {
    std::array<int, 2> pipe;
    MI7_CHECK(::pipe(pipe.data()) == 0, "pipe");
    pid_ = Fork([&] {
      auto server = start();
      const std::string line = server.ok() ? (*server)->endpoints()[0] : "";
      if (::write(pipe[1], line.data(), line.size()) < 0) return 1;
      ::close(pipe[1]);
      for (;;) ::pause();
    });
    ::close(pipe[1]);
    char buffer[200];
    const ssize_t got = ::read(pipe[0], buffer, sizeof(buffer));
    endpoint_.assign(buffer, static_cast<size_t>(std::max<ssize_t>(got, 0)));
    ::close(pipe[0]);
  }
  ~OtherServer() {
    ::kill(pid_, SIGKILL);
    WaitFor(pid_);
  }
  OtherServer(const OtherServer&) = delete;
  OtherServer& operator=(const OtherServer&) = delete;
  const std::string& endpoint() const { return endpoint_; }

 private:
  pid_t pid_;
  std::string endpoint_;
};

class OtherUsersTest : public testing::Test {
 protected:
  OtherUsersTest() { local_.runtime_dir = directory_.path(); }
  void SetUp() override {
    if (!transport::testing::MayBecomeOthers()) GTEST_SKIP();
  }

  absl::StatusOr<std::unique_ptr<Server>> Start(const std::string& endpoint) {
    ServerOptions options;
    options.local = local_;
    return ServerBuilder().SetOptions(options).AddService(&probe_).Listen(endpoint).Start();
  }
  std::shared_ptr<Channel> ChannelTo(const std::string& endpoint) {
    ChannelOptions options;
    options.local = local_;
    return *Channel::Create(endpoint, options);
  }
  static bool CallsWork(const std::shared_ptr<Channel>& channel) {
    return ProbeStub(channel).Echo({.deadline = Deadline::After(kSoon)}).Send().Wait().ok();
  }

  const TemporaryDirectory directory_;
  transport::LocalOptions local_;
  ProbeImpl probe_;
};

TEST_F(OtherUsersTest, ClientOfAnotherUserStaysOnTcp) {
  OtherServer server([this] { return Start("mi7://127.0.0.1:0"); });
  EXPECT_EQ(AsAnother([&] {
              const auto channel = ChannelTo(server.endpoint());
              if (!CallsWork(channel)) return 1;
              const std::string text = channel->Describe();
              if (channel->transport() != "tcp") return 2;
              return text.find("it belongs to uid 0, not to us, uid 12345") != text.npos ? 0 : 3;
            }),
            0);
}

TEST_F(OtherUsersTest, PolicyDecidesWhoMayUseASocketThatIsOpenToAll) {
  ASSERT_EQ(::chmod(directory_.path().c_str(), 0711), 0);
  local_.runtime_dir.clear();
  local_.socket_mode = 0666;
  for (const std::string transport : {"shm", "unix"}) {
    const std::string endpoint = absl::StrCat(transport, ":", directory_ / transport);
    // The client's policy admits root; the server's admits the client, or does not.
    const auto connect = [&] {
      return AsAnother([&] {
        local_.peers = {};
        local_.peers.users = {0};
        const auto channel = ChannelTo(endpoint);
        const absl::Status status = channel->Connect(Deadline::After(kSoon));
        if (absl::IsPermissionDenied(status)) return 1;
        if (!status.ok()) return 2;
        return CallsWork(channel) && channel->transport() == transport ? 0 : 3;
      });
    };
    {
      OtherServer server([&] { return Start(endpoint); });
      EXPECT_EQ(connect(), 1) << endpoint;
    }
    {
      OtherServer server([&] {
        local_.peers.groups = {12345};
        return Start(endpoint);
      });
      EXPECT_EQ(connect(), 0) << endpoint;
    }
  }
}

}  // namespace
}  // namespace mi7::conformance
