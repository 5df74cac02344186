#include "transport/fault/fault_connection.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <random>
#include <utility>

#include <capnp/any.h>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mutex.h"
#include "transport/message_queue.h"

namespace mi7::transport::fault {
namespace {

// Send consumes its message also when the queue is full, and a held message must not get lost.
OutgoingMessage Copy(MessageBody& message) {
  OutgoingMessage copy = NewHeapMessage(MessageBytes(message));
  copy->header = message.header;
  copy->has_body = message.has_body;
  copy->may_gather = message.may_gather;
  copy->SetExtra(message.extra());
  if (message.has_body) {
    copy->getRoot<capnp::AnyPointer>().set(message.getRoot<capnp::AnyPointer>().asReader());
  }
  return copy;
}

// The receiver of the inner connection, and all that outlives the user's handle.
//
// Callbacks of the inner connection exclude each other; OnWritable is called by a timer as well, so
// all callbacks are made with callback_mutex_ held. Locks: callback_mutex_ before mutex_.
class Core final : public Receiver, public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<Connection> inner, EventLoop* loop, const Options& options)
      : options_(options), loop_(loop), inner_(std::move(inner)), random_(options.seed) {
    limits_ = options.limits;
    limits_.message_bytes_max =
        std::min(limits_.message_bytes_max, inner_->info().negotiated.message_bytes_max);
  }

  Connection& inner() { return *inner_; }

  void Start(std::shared_ptr<Receiver> receiver) {
    {
      MutexLock lock(&callback_mutex_);
      receiver_ = std::move(receiver);
    }
    inner_->Start(shared_from_this());
  }

  absl::Status Send(OutgoingMessage message) {
    absl::Status sealed = SealMessage(*message, limits_);
    if (!sealed.ok()) return sealed;
    const bool bounded = !options_.accepted && !IsStreamFrame(message->header.type) &&
                         message->header.type != FrameType::kCancel;
    // What an accepted connection answers is bounded by the inner one, which stops reading: it must
    // learn of it.
    const bool passes_on = options_.accepted;
    MutexLock lock(&mutex_);
    if (ended_) return absl::UnavailableError("connection is closed");
    const Queued after = held_count_.With(message->header.size, 1);
    if (bounded && !held_.empty() && after.weight() > options_.limits.queued_bytes_max) {
      return QueueFull();
    }
    held_.push_back(std::move(message));
    held_count_ = after;
    if (passes_on && !held_count_.IsHalf(options_.limits)) ForwardAll();
    ScheduleLocked();
    return absl::OkStatus();
  }

  bool Withdraw(uint32_t call_id) {
    {
      MutexLock lock(&mutex_);
      const auto found =
          std::find_if(held_.begin(), held_.end(), [call_id](const OutgoingMessage& message) {
            return message->header.type == FrameType::kCall && message->header.call_id == call_id;
          });
      if (found != held_.end()) {
        Dropped((*found)->header.size);
        held_.erase(found);
        ScheduleLocked();
        return true;
      }
    }
    return inner_->Withdraw(call_id);
  }

  absl::StatusOr<OutgoingMessage> Reserve(size_t bytes) {
    MutexLock lock(&mutex_);
    if (ended_) return absl::UnavailableError("connection is closed");
    const bool full = held_count_.weight() >= options_.limits.queued_bytes_max;
    if (!options_.accepted && full) return QueueFull();
    return NewHeapMessage(bytes);
  }

  bool HasRoom() {
    MutexLock lock(&mutex_);
    if (held_count_.HasRoom(options_.limits)) return true;
    writable_wanted_ = true;
    return false;
  }

  void RequestWritable() {
    MutexLock lock(&mutex_);
    writable_wanted_ = true;
    ScheduleLocked();
  }

  // Sends what goes without waiting, then closes.
  void Close(absl::Status why) {
    {
      MutexLock lock(&mutex_);
      if (ended_) return;
      ended_ = true;
      ForwardAll();
    }
    inner_->Close(std::move(why));
  }

  bool HasUnsent() {
    {
      MutexLock lock(&mutex_);
      if (!held_.empty()) return true;
    }
    return inner_->HasUnsent();
  }

  void CloseWhenSent() {
    MutexLock lock(&mutex_);
    closes_when_sent_ = true;
    ScheduleLocked();
  }

  bool InCallback() const {
    for (const Frame* frame = frames_; frame != nullptr; frame = frame->outer) {
      if (frame->core == this) return true;
    }
    return inner_->InCallback();
  }

  void OnMessage(IncomingMessage&& message) override {
    const Callback callback(*this);
    receiver_->OnMessage(std::move(message));
  }
  void OnRejected(const FrameHeader& header, const absl::Status& why) override {
    const Callback callback(*this);
    receiver_->OnRejected(header, why);
  }
  void OnUnsent(const FrameHeader& header, const absl::Status& why) override {
    const Callback callback(*this);
    receiver_->OnUnsent(header, why);
  }
  void OnWritable() override {
    // The inner connection has room; whether we have is seen when it was used.
    MutexLock lock(&mutex_);
    stuck_ = false;
    ScheduleLocked();
  }
  void OnClosed(const absl::Status& why) override {
    const Callback callback(*this);
    std::deque<OutgoingMessage> unsent;
    {
      MutexLock lock(&mutex_);
      ended_ = true;
      timer_.reset();
      unsent.swap(held_);
    }
    for (const OutgoingMessage& message : unsent) {
      receiver_->OnUnsent(message->header, LostBeforeSend());
    }
    receiver_->OnClosed(why);
    receiver_.reset();
  }

 private:
  struct Frame {
    const Core* core;
    Frame* outer;
  };
  class Callback {
   public:
    explicit Callback(Core& core) : lock_(&core.callback_mutex_), frame_{&core, frames_} {
      frames_ = &frame_;
    }
    ~Callback() { frames_ = frame_.outer; }

   private:
    MutexLock lock_;
    Frame frame_;
  };

  absl::Status QueueFull() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    writable_wanted_ = true;
    return QueueFullError(absl::StrCat("connection has ", held_count_.weight(),
                                       " bytes queued; limits.queued_bytes_max is ",
                                       options_.limits.queued_bytes_max));
  }

  void ScheduleLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool sends = !held_.empty() && !stuck_;
    if (ended_ || scheduled_ || !(sends || WritableDueLocked() || CloseDueLocked())) return;
    scheduled_ = true;
    if (!timer_.has_value()) {
      timer_.emplace(loop_, [weak = weak_from_this()] {
        if (const std::shared_ptr<Core> core = weak.lock()) core->Tick();
      });
    }
    const int64_t delay_max_ns = absl::ToInt64Nanoseconds(options_.delay_max);
    timer_->Schedule(Deadline::After(absl::Nanoseconds(
        static_cast<int64_t>(random_() % static_cast<uint64_t>(delay_max_ns + 1)))));
  }

  bool WritableDueLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return writable_wanted_ && held_count_.IsLow(options_.limits);
  }

  bool CloseDueLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closes_when_sent_ && held_.empty();
  }

  // One that was held is no more.
  void Dropped(uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    held_count_ = {held_count_.bytes - bytes, held_count_.messages - 1};
  }

  // Sends the first held message on; false when the inner connection does not take it now.
  bool ForwardOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const FrameHeader& header = held_.front()->header;
    const uint64_t bytes = header.size;
    // Messages of streams are not refused: whoever sends them asks first.
    const bool full = header.type == FrameType::kStreamMessage && !inner_->HasRoom();
    if (full || !inner_->Send(Copy(*held_.front())).ok()) {
      // Full, and OnWritable comes; or ended, and OnClosed comes.
      stuck_ = true;
      return false;
    }
    stuck_ = false;
    held_.pop_front();
    Dropped(bytes);
    return true;
  }

  void ForwardAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (!held_.empty() && ForwardOne()) {
    }
  }

  void TellWritable() {
    const Callback callback(*this);
    {
      MutexLock lock(&mutex_);
      if (ended_) return;
    }
    if (receiver_ != nullptr) receiver_->OnWritable();
  }

  // On the loop.
  void Tick() {
    bool lose = false;
    bool writable = false;
    bool close = false;
    {
      MutexLock lock(&mutex_);
      scheduled_ = false;
      if (ended_) return;
      const uint32_t burst = 1 + static_cast<uint32_t>(random_() % options_.burst_max);
      for (uint32_t i = 0; i < burst && !held_.empty() && !stuck_ && !lose; ++i) {
        lose = std::uniform_real_distribution<double>(0, 1)(random_) < options_.loss_probability;
        if (lose) break;
        if (!ForwardOne()) break;
      }
      if (lose) {
        ended_ = true;
      } else {
        writable = WritableDueLocked();
        if (writable) writable_wanted_ = false;
        close = CloseDueLocked();
        if (close) closes_when_sent_ = false;
      }
    }
    if (lose) {
      inner_->Close(absl::UnavailableError(
          absl::StrCat("connection lost, as seed ", options_.seed, " has it")));
      return;
    }
    if (writable) TellWritable();
    if (close) inner_->CloseWhenSent();
    MutexLock lock(&mutex_);
    ScheduleLocked();
  }

  static constinit thread_local Frame* frames_;

  const Options options_;
  Limits limits_;  // what both ends accept
  EventLoop* const loop_;
  const std::shared_ptr<Connection> inner_;

  Mutex callback_mutex_;
  std::shared_ptr<Receiver> receiver_;  // guarded by callback_mutex_, by way of Callback

  Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  std::deque<OutgoingMessage> held_ ABSL_GUARDED_BY(mutex_);
  Queued held_count_ ABSL_GUARDED_BY(mutex_);
  std::optional<EventLoop::Timer> timer_ ABSL_GUARDED_BY(mutex_);
  bool scheduled_ ABSL_GUARDED_BY(mutex_) = false;
  bool stuck_ ABSL_GUARDED_BY(mutex_) = false;  // until OnWritable of the inner connection
  bool writable_wanted_ ABSL_GUARDED_BY(mutex_) = false;
  bool closes_when_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

constinit thread_local Core::Frame* Core::frames_ = nullptr;

class FaultConnection final : public Connection {
 public:
  explicit FaultConnection(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  // The core and the inner connection refer to each other until the end.
  ~FaultConnection() override { core_->Close(absl::OkStatus()); }

  void Start(std::shared_ptr<Receiver> receiver) override { core_->Start(std::move(receiver)); }
  absl::StatusOr<OutgoingMessage> Reserve(size_t bytes) override { return core_->Reserve(bytes); }
  absl::Status Send(OutgoingMessage&& message) override { return core_->Send(std::move(message)); }
  bool Withdraw(uint32_t call_id) override { return core_->Withdraw(call_id); }
  bool HasRoom() override { return core_->HasRoom(); }
  void RequestWritable() override { core_->RequestWritable(); }
  void Close(absl::Status why) override { core_->Close(std::move(why)); }
  bool HasUnsent() override { return core_->HasUnsent(); }
  void CloseWhenSent() override { core_->CloseWhenSent(); }
  bool Await(Completion& completion, Deadline deadline) override {
    MI7_CHECK(!InCallback(), "Await is not called inside a callback of the same connection");
    return core_->inner().Await(completion, deadline);
  }
  void SetBackground(bool wanted) override { core_->inner().SetBackground(wanted); }
  bool InCallback() const override { return core_->InCallback(); }
  ConnectionInfo info() const override { return core_->inner().info(); }

 private:
  const std::shared_ptr<Core> core_;
};

}  // namespace

std::shared_ptr<Connection> Decorate(std::shared_ptr<Connection> inner, EventLoop* loop,
                                     const Options& options) {
  return std::make_shared<FaultConnection>(std::make_shared<Core>(std::move(inner), loop, options));
}

}  // namespace mi7::transport::fault
