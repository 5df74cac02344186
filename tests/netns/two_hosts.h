#pragma once

// Two hosts: client and server in two network namespaces, joined by a cable that the test can pull.
//
// The test's process becomes the client's host; the server is the same program again, started with
// --serve, and takes single letters as commands on its standard input. The library has the main()
// of both.

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "rpc/channel.h"
#include "tests/conformance/call/probe_service.h"
#include "tests/netns/child_host.h"
#include "tests/netns/namespaces.h"

namespace mi7::conformance {

// The two ends of the cable.
inline constexpr char kClientLink[] = "mi7client";
inline constexpr char kServerLink[] = "mi7server";
inline constexpr char kClientAddress[] = "10.77.0.2";
inline constexpr char kServerAddress[] = "10.77.0.1";
inline constexpr char kClientAddress6[] = "fd77::2";
inline constexpr char kServerAddress6[] = "fd77::1";
inline constexpr uint16_t kPort = 4711;
inline constexpr uint16_t kWatchfulPort = 4712;

// Far less than anything else that ends a connection.
inline constexpr Keepalive kWatchful = {.interval = absl::Milliseconds(100),
                                        .timeout = absl::Milliseconds(400)};

class ServerHost {
 public:
  ServerHost();

  // The next line of the server is "ok".
  bool Ok() { return host_.NextLine() == "ok"; }
  // Commands: s: set up the link and listen; k: with a keepalive, at another port; a: answer the
  // oldest held call; c: wait until that is cancelled, and drop it; n: wait until there are no
  // connections; p: probe idle ones much sooner; d, u: cable out and in; l, f: what leaves this
  // host is lost, and no longer; the end of input: shut down. Each is answered with a line.
  bool Do(char command) { return host_.Do(command) == "ok"; }
  pid_t pid() const { return host_.pid(); }
  // Ends it in order; its exit status.
  int Shutdown() { return host_.End(); }

 private:
  ChildHost host_;
};

// Has the system find out much sooner than mi7 asks it to, as far as it is to find out at all, that
// nobody is at the other end of this process's TCP connections, which have to be idle. Their
// number.
int ProbeSoon();
// From now on what this host sends through `link` to `address` arrives nowhere, or no longer so. It
// goes on receiving.
bool LoseWhatLeaves(const char* link, const char* address, bool lose);

class TwoHostsTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string& why_not = EnterTestsNetwork();
    if (!why_not.empty()) GTEST_SKIP() << NotRun("two-host test", why_not);
    ASSERT_NO_FATAL_FAILURE(Boot());
    channel_ = NewChannel();
  }
  void TearDown() override {
    channel_ = nullptr;
    host_ = nullptr;
    // With the server's network its end of the cable goes, and with it ours.
    if (EnterTestsNetwork().empty()) Ip(absl::StrCat("link delete ", kClientLink, " 2>/dev/null"));
  }
  // A new server's host, and the cable to it.
  void Boot() {
    host_ = std::make_unique<ServerHost>();
    ASSERT_TRUE(host_->Ok());
    Ip(absl::StrCat("link delete ", kClientLink, " 2>/dev/null"));
    ASSERT_TRUE(Ip(absl::StrCat("link add ", kClientLink, " type veth peer name ", kServerLink,
                                " netns ", host_->pid())));
    ASSERT_TRUE(Ip(absl::StrCat("addr add ", kClientAddress, "/24 dev ", kClientLink)));
    ASSERT_TRUE(Ip(absl::StrCat("link set ", kClientLink, " up")));
    ASSERT_TRUE(Ip(absl::StrCat("addr add ", kClientAddress6, "/64 dev ", kClientLink, " nodad")));
    ASSERT_TRUE(host_->Do('s'));
  }
  static std::shared_ptr<Channel> NewChannel(const std::string& host = kServerAddress,
                                             ChannelOptions options = {}, uint16_t port = kPort) {
    options.backoff.initial = absl::Milliseconds(10);
    options.backoff.max = absl::Milliseconds(100);
    return *Channel::Create(absl::StrCat("tcp:", host, ":", port), options);
  }
  EchoResult Echo(const std::string& text, const CallOptions& options) {
    auto request = ProbeStub(channel_).Echo(options);
    request->setText(text);
    return request.Send().Wait();
  }
  static CallOptions Soon(absl::Duration timeout = kSoon) {
    return {.deadline = Deadline::After(timeout)};
  }
  PendingCall<Probe::HoldResults> Hold(const CallOptions& options = {}) {
    auto request = ProbeStub(channel_).Hold(options);
    request->setNumber(7);
    return request.Send();
  }

  std::unique_ptr<ServerHost> host_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7::conformance
