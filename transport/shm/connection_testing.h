#pragma once

// Two ends of a connection, whose peer reads nothing before it is told to.

#include <sched.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "base/deadline.h"
#include "transport/event_loop.h"
#include "transport/shm/layout.h"
#include "transport/shm/shm_options.h"
#include "transport/shm/testing.h"
#include "transport/stream/testing.h"

namespace mi7::transport::shm {

// Whether `happens` within some seconds of real time; asked again and again.
template <typename Predicate>
bool Comes(Predicate happens) {
  const int64_t until_ns = SystemNanos() + 15'000'000'000;
  while (!happens()) {
    if (SystemNanos() > until_ns) return false;
    ::sched_yield();
  }
  return true;
}

// Until the loop has done what it was called for.
inline void LetTurn(EventLoop& loop) {
  std::atomic<bool> turned{false};
  loop.Post([&turned] { turned = true; });
  ASSERT_TRUE(Comes([&turned] { return turned.load(); }));
}

// Two ends. The largest message of those of ShmConnectionTest takes 256 KiB.
class ShmConnectionTest : public ::testing::Test {
 protected:
  using SlotClasses = std::vector<ShmOptions::SlotClass>;
  explicit ShmConnectionTest(SlotClasses classes = {{4096, 16}, {16384, 16}})
      : classes_(std::move(classes)) {}
  static constexpr size_t kTooLarge = 300'000;
  static constexpr uint32_t kMoreThanTheRing = 3 * kRingCells;

  void SetUp() override {
    PairOptions options;
    options.client_shm.slot_classes = options.server_shm.slot_classes = classes_;
    std::tie(client_, server_) = ConnectPair(client_loop_.get(), server_loop_.get(), options);
    client_->Start(at_client_);
  }
  // Until then nobody reads what the client sends.
  void StartServer() { server_->Start(at_server_); }
  void TearDown() override {
    client_->Close(absl::OkStatus());
    server_->Close(absl::OkStatus());
    EXPECT_FALSE(absl::IsDeadlineExceeded(at_client_->WaitClosed()));
    EXPECT_FALSE(absl::IsDeadlineExceeded(at_server_->WaitClosed()));
  }
  absl::Status Send(uint32_t call_id, size_t bytes) {
    return client_->Send(testing::MakeMessage(FrameType::kCall, call_id, bytes));
  }

  const SlotClasses classes_;
  std::unique_ptr<EventLoop> client_loop_ = testing::NewLoop();
  std::unique_ptr<EventLoop> server_loop_ = testing::NewLoop();
  std::shared_ptr<testing::Recorder> at_client_ = std::make_shared<testing::Recorder>();
  std::shared_ptr<testing::Recorder> at_server_ = std::make_shared<testing::Recorder>();
  std::shared_ptr<Connection> client_;
  std::shared_ptr<Connection> server_;
};

}  // namespace mi7::transport::shm
