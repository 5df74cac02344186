#pragma once

// What streams must do on every transport. The tests (stream_*.cc) are instantiated for a transport
// by a test program that names its endpoints, as those of calls are (call_conformance.h).

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/call_transport.h"
#include "tests/conformance/call/feed_service.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::conformance {

class StreamTest : public testing::TestWithParam<CallTransport> {
 protected:
  ~StreamTest() override;

  // Starts server_ with feed_ on a new endpoint, and channel_, not connected yet.
  void Start(const ServerOptions& server = {}, const ChannelOptions& channel = {});
  // The same with `limits` at both ends.
  void Start(const Limits& limits);
  std::shared_ptr<Channel> NewChannel(ChannelOptions options = {}) const;

  FeedStub stub() const { return FeedStub(channel_); }
  // A stream of `count` items of `bytes` bytes.
  StreamReader<Item> Watch(uint64_t count, size_t bytes = 0, const CallOptions& options = {}) const;
  // Whether a unary call works, now.
  testing::AssertionResult Answers() const;
  // Reads everything, blocking, and expects items from `first` to `last`, the end not included.
  static testing::AssertionResult GivesItems(StreamReader<Item>& reader, uint64_t first,
                                             uint64_t last, size_t bytes = 0);

  FeedImpl feed_;
  // For handlers to count in: they may go on until the server has ended, after the test's body.
  std::atomic<uint64_t> written_{0};
  std::string endpoint_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7::conformance
