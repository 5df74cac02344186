// "Zero payload copies": what the transport copies of requests and responses over shared memory, on
// both sides together, counted by itself (transport/copy_counter.h). What rides in the ring's
// cells, up to 192 bytes a message, is not counted.

#include <sched.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/probe_service.h"
#include "transport/copy_counter.h"
#include "transport/local/testing.h"
#include "transport/shm/testing.h"

namespace mi7::conformance {
namespace {

uint8_t ByteAt(size_t i) { return static_cast<uint8_t>(i * 7 + i / 251); }

void Fill(capnp::Data::Builder data) {
  for (size_t i = 0; i < data.size(); ++i) data[i] = ByteAt(i);
}
bool IsWhole(capnp::Data::Reader data, size_t bytes) {
  for (size_t i = 0; i < data.size(); i += 97) {
    if (data[i] != ByteAt(i)) return false;
  }
  return data.size() == bytes;
}

class ShmZeroCopyTest : public testing::Test {
 protected:
  // The handler reads a request of `request` bytes and answers with `response` bytes.
  void Serve(const transport::LocalOptions& local = {}) {
    probe_.on_echo = [this](ServerContext&, Probe::EchoParams::Reader params,
                            Probe::EchoResults::Builder results) -> Reply {
      if (!IsWhole(params.getData(), request_bytes_)) return absl::DataLossError("request");
      if (response_bytes_ != 0) Fill(results.initData(static_cast<unsigned>(response_bytes_)));
      return absl::OkStatus();
    };
    ServerOptions server;
    server.local = local;
    ChannelOptions channel;
    channel.local = local;
    const std::string endpoint = absl::StrCat("shm:", directory_ / "s");
    server_ = *ServerBuilder().SetOptions(server).AddService(&probe_).Listen(endpoint).Start();
    channel_ = *Channel::Create(endpoint, channel);
    ASSERT_THAT(channel_->Connect(Deadline::After(kSoon)), IsOk());
    ASSERT_EQ(channel_->transport(), "shm");
  }
  EchoResult Call(size_t request, size_t response) {
    request_bytes_ = request;
    response_bytes_ = response;
    auto call = ProbeStub(channel_).Echo({.deadline = Deadline::After(kSoon)});
    if (request != 0) Fill(call->initData(static_cast<unsigned>(request)));
    return call.Send().Wait();
  }
  // Bytes that the transport copies for one such call.
  uint64_t CopiedBy(size_t request, size_t response) {
    const uint64_t before = transport::copied_payload_bytes.load();
    const EchoResult result = Call(request, response);
    EXPECT_THAT(result, IsOk());
    if (result.ok()) {
      EXPECT_TRUE(IsWhole(result->getData(), response));
    }
    return transport::copied_payload_bytes.load() - before;
  }

  const transport::testing::TemporaryDirectory directory_;
  size_t request_bytes_ = 0;
  size_t response_bytes_ = 0;
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

// From less than a slot of the smallest class to several slots of the largest.
constexpr size_t kSizes[] = {300,      1000,    4000,    5000,     60'000,
                             100'000,  1 << 20, 3 << 20, 16 << 20, (16 << 20) + 4096,
                             60u << 20};

TEST_F(ShmZeroCopyTest, NeitherRequestsNorResponsesOfAnySizeAreCopied) {
  Serve();
  CopiedBy(300, 300);  // whether messages of a kind are small is learned from the first
  for (const size_t size : kSizes) {
    EXPECT_EQ(CopiedBy(size, 0), 0u) << "request of " << size;
    EXPECT_EQ(CopiedBy(0, size), 0u) << "response of " << size;
    EXPECT_EQ(CopiedBy(size, size), 0u) << "both of " << size;
  }
}

// The first of a kind is expected to be small, as are those after many small ones: what comes
// before its payload, the root struct above all, is built in other memory.
TEST_F(ShmZeroCopyTest, ThePayloadOfTheFirstLargeMessageOfAKindIsNotCopiedEither) {
  Serve();
  EXPECT_LE(CopiedBy(1 << 20, 1 << 20), 500u);
  for (int i = 0; i < 100; ++i) CopiedBy(8, 8);
  EXPECT_LE(CopiedBy(0, 1 << 20), 250u);
  for (int i = 0; i < 100; ++i) CopiedBy(8, 8);
  EXPECT_LE(CopiedBy(16 << 20, 0), 250u);
  EXPECT_LE(CopiedBy(16 << 20, 16 << 20), 250u) << "the response is the first large one again";
  EXPECT_EQ(CopiedBy(16 << 20, 16 << 20), 0u);
}

TEST_F(ShmZeroCopyTest, WhatRidesInTheRingIsNeitherCopiedNorBuiltInSlots) {
  FakeClock clock;
  Serve();
  // That those of this kind have been large, in another test, is forgotten.
  for (int i = 0; i < 20; ++i) CopiedBy(8, 8);
  const int64_t until_ns = SystemNanos() + 20'000'000'000;
  while (transport::shm::CommittedSlotBytes() != 0 && SystemNanos() < until_ns) {
    clock.Advance(absl::Milliseconds(100));
    ::sched_yield();
  }
  ASSERT_EQ(transport::shm::CommittedSlotBytes(), 0u) << "its slots go back after a second";
  for (int i = 0; i < 100; ++i) EXPECT_EQ(CopiedBy(8, 8), 0u);
  EXPECT_EQ(transport::shm::CommittedSlotBytes(), 0u);
}

TEST_F(ShmZeroCopyTest, ResponsesThatAreKeptAreReadInPlaceUntilHalfTheSlotsAreHeld) {
  transport::LocalOptions local;
  local.shm.slot_classes = {{4096, 32}};
  Serve(local);
  CopiedBy(0, 1000);
  std::vector<EchoResult> kept;
  const uint64_t before = transport::copied_payload_bytes.load();
  for (int i = 0; i < 16; ++i) kept.push_back(Call(0, 1000));
  EXPECT_EQ(transport::copied_payload_bytes.load(), before);
  for (int i = 0; i < 16; ++i) kept.push_back(Call(0, 1000));
  // Copied out on arrival, so that they hold up nobody.
  EXPECT_GE(transport::copied_payload_bytes.load(), before + 16 * 1000);
  for (const EchoResult& result : kept) {
    ASSERT_THAT(result, IsOk());
    EXPECT_TRUE(IsWhole(result->getData(), 1000));
  }
  kept.clear();
  EXPECT_EQ(CopiedBy(0, 1000), 0u) << "and then it is as before";
}

}  // namespace
}  // namespace mi7::conformance
