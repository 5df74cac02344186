#pragma once

// For tests of what is above the seam: a Connection whose other end is the test. What is sent is
// kept for the test to look at; what arrives, the test delivers; nothing happens by itself.

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/limits.h"
#include "transport/callback_scope.h"
#include "transport/connection.h"

namespace mi7 {

// Thread-safe where Connection is; Deliver... are the driving thread's.
class FakeConnection final : public transport::Connection {
 public:
  explicit FakeConnection(const Limits& limits = {}) : limits_(limits) {}

  // --- The test's end ---

  void Deliver(transport::OutgoingMessage message) {
    MI7_CHECK(transport::SealMessage(*message, {}).ok(), "the test's message keeps the limits");
    Deliver(transport::MakeIncoming(std::move(message)));
  }
  void Deliver(transport::IncomingMessage message) {
    const Callback callback(this);
    receiver_->OnMessage(std::move(message));
  }
  void DeliverRejected(const transport::FrameHeader& header, const absl::Status& why) {
    receiver_->OnRejected(header, why);
  }
  void DeliverUnsent(const transport::FrameHeader& header,
                     const absl::Status& why = transport::LostBeforeSend()) {
    receiver_->OnUnsent(header, why);
  }
  // Ends the connection, as Connection promises it after Close too.
  void DeliverClosed(const absl::Status& why) {
    {
      absl::MutexLock lock(&mutex_);
      ended_ = true;
    }
    std::shared_ptr<transport::Receiver> receiver = std::move(receiver_);
    const Callback callback(this);
    receiver->OnClosed(why);
  }
  // DeliverClosed, unless it was not started or is over. A connection and its receiver own each
  // other until then, so tests end with it.
  void End() {
    if (receiver_ != nullptr) DeliverClosed(absl::OkStatus());
  }
  // The oldest message that was sent and not taken; waits up to 20 s for it. Empty when none came.
  transport::IncomingMessage TakeSent() {
    absl::MutexLock lock(&mutex_);
    const auto has_sent = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return !sent_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&has_sent), absl::Seconds(20))) return {};
    transport::IncomingMessage message = std::move(sent_.front());
    sent_.pop_front();
    return message;
  }
  size_t sent_count() const {
    absl::MutexLock lock(&mutex_);
    return sent_.size();
  }
  // The status of the first Close, if there was one.
  std::optional<absl::Status> closed_with() const {
    absl::MutexLock lock(&mutex_);
    return closed_with_;
  }
  // Sends fail with it from now on, unless it is OK.
  void FailSends(absl::Status status) {
    absl::MutexLock lock(&mutex_);
    send_failure_ = std::move(status);
  }
  // What the next Send does, and returns; it is called without a lock.
  void DoAtNextSend(std::function<absl::Status()> action) {
    absl::MutexLock lock(&mutex_);
    next_send_ = std::move(action);
  }
  // What the next info() does; it is called without a lock.
  void DoAtNextInfo(std::function<void()> action) {
    absl::MutexLock lock(&mutex_);
    next_info_ = std::move(action);
  }
  bool background() const { return background_; }
  // From now on what was sent can be taken back: the test must not look at it then.
  void LetWithdraw() { withdraws_ = true; }
  // What was agreed on with the peer; before Start.
  void SetFeatures(uint64_t features) { features_ = features; }
  // Whether OnWritable was asked for since the last time; the test delivers it by itself.
  bool TakeWritableRequest() { return writable_requested_.exchange(false); }
  // Whose memory messages grow into; before the first.
  void SetSegmentSource(transport::SegmentSource* source) { segment_source_ = source; }
  // What HasRoom answers; the test delivers OnWritable by itself.
  void SetRoom(bool room) { room_ = room; }
  // Whether something waits to be sent. A connection that is to be closed when nothing does is
  // closed then.
  void SetUnsent(bool unsent) {
    unsent_ = unsent;
    if (closes_when_sent_) CloseWhenSent();
  }
  void DeliverWritable() {
    const Callback callback(this);
    receiver_->OnWritable();
  }

  // --- transport::Connection ---

  void Start(std::shared_ptr<transport::Receiver> receiver) override {
    receiver_ = std::move(receiver);
  }
  absl::StatusOr<transport::OutgoingMessage> Reserve(size_t bytes) override {
    absl::MutexLock lock(&mutex_);
    if (ended_) return absl::UnavailableError("fake connection is closed");
    transport::OutgoingMessage message = transport::NewHeapMessage(bytes);
    message->segment_source = segment_source_;
    return message;
  }
  absl::Status Send(transport::OutgoingMessage&& message) override {
    transport::OutgoingMessage own = std::move(message);
    std::function<absl::Status()> action;
    {
      absl::MutexLock lock(&mutex_);
      action = std::exchange(next_send_, nullptr);
    }
    if (action != nullptr) return action();
    absl::MutexLock lock(&mutex_);
    if (ended_ || closed_with_) return absl::UnavailableError("fake connection is closed");
    if (!send_failure_.ok()) return send_failure_;
    if (absl::Status valid = transport::SealMessage(*own, limits_); !valid.ok()) {
      return valid;
    }
    sent_.push_back(transport::MakeIncoming(std::move(own)));
    return absl::OkStatus();
  }
  bool Withdraw(uint32_t) override { return withdraws_; }
  bool HasRoom() override { return room_; }
  void RequestWritable() override { writable_requested_ = true; }
  void Close(absl::Status why) override {
    absl::MutexLock lock(&mutex_);
    if (!closed_with_) closed_with_ = std::move(why);
  }
  bool HasUnsent() override { return unsent_; }
  void CloseWhenSent() override {
    closes_when_sent_ = true;
    if (!unsent_) Close(absl::OkStatus());
  }
  bool Await(transport::Completion& completion, Deadline deadline) override {
    for (;;) {
      switch (completion.Sleep(deadline)) {
        case transport::Completion::Woken::kDone:
          return true;
        case transport::Completion::Woken::kDeadline:
          return false;
        case transport::Completion::Woken::kTurn:
          break;
      }
    }
  }
  void SetBackground(bool wanted) override { background_ = wanted; }
  bool InCallback() const override { return in_callback_ == std::this_thread::get_id(); }
  transport::ConnectionInfo info() const override {
    std::function<void()> action;
    {
      absl::MutexLock lock(&mutex_);
      action = std::exchange(next_info_, nullptr);
    }
    if (action != nullptr) action();
    return {.transport = "fake",
            .peer = "fake:peer",
            .local = "fake:local",
            .negotiated = {.features = features_,
                           .message_bytes_max = limits_.message_bytes_max,
                           .calls_in_flight_max = limits_.calls_in_flight_max,
                           .stream_window_bytes = limits_.stream_window_bytes,
                           .peer_instance = 1}};
  }

 private:
  // While the receiver is called.
  class Callback final : transport::CallbackScope {
   public:
    explicit Callback(FakeConnection* of)
        : CallbackScope(of),
          of_(of),
          outer_(of->in_callback_.exchange(std::this_thread::get_id())) {}
    ~Callback() { of_->in_callback_ = outer_; }

   private:
    void Flush() override {}

    FakeConnection* const of_;
    const std::thread::id outer_;
  };

  const Limits limits_;
  uint64_t features_ = transport::kFeaturesOfAll;
  transport::SegmentSource* segment_source_ = nullptr;
  std::shared_ptr<transport::Receiver> receiver_;
  std::atomic<std::thread::id> in_callback_{};
  std::atomic<bool> background_{false};
  std::atomic<bool> withdraws_{false};
  std::atomic<bool> room_{true};
  std::atomic<bool> unsent_{false};
  std::atomic<bool> closes_when_sent_{false};
  std::atomic<bool> writable_requested_{false};
  mutable absl::Mutex mutex_;
  std::deque<transport::IncomingMessage> sent_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> closed_with_ ABSL_GUARDED_BY(mutex_);
  absl::Status send_failure_ ABSL_GUARDED_BY(mutex_);
  std::function<absl::Status()> next_send_ ABSL_GUARDED_BY(mutex_);
  mutable std::function<void()> next_info_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace mi7
