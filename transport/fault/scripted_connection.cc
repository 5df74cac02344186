#include "transport/fault/scripted_connection.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/deadline.h"
#include "base/mutex.h"

namespace mi7::transport::fault {
namespace {

absl::Status Lost() { return absl::UnavailableError("connection lost, as the script has it"); }

// The receiver of the inner connection, and all that outlives the user's handle.
//
// Callbacks of the inner connection exclude each other; those of late messages come from a timer,
// so all are made with callback_mutex_ held. Locks: callback_mutex_ before mutex_.
class Core final : public Receiver, public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<Connection> inner, EventLoop* loop, std::shared_ptr<Script> script)
      : loop_(loop), inner_(std::move(inner)), script_(std::move(script)) {}

  Connection& inner() { return *inner_; }

  void Start(std::shared_ptr<Receiver> receiver) {
    {
      MutexLock lock(&callback_mutex_);
      receiver_ = std::move(receiver);
    }
    inner_->Start(shared_from_this());
  }

  absl::Status Send(OutgoingMessage message) {
    bool lose = false;
    {
      MutexLock lock(&mutex_);
      if (ended_) return absl::UnavailableError("connection is closed");
      const Fate fate = script_->FateOf(Way::kSent, message->header);
      if (!out_.empty() || fate.delay > absl::ZeroDuration()) {
        out_.push_back({std::move(message), fate.kind, DueAfter(out_, fate.delay)});
        ScheduleLocked();
        return absl::OkStatus();
      }
      if (fate.kind == Fate::Kind::kPass) return inner_->Send(std::move(message));
      lose = fate.kind == Fate::Kind::kLose && LoseLocked();
    }
    if (lose) inner_->Close(absl::OkStatus());
    return absl::OkStatus();
  }

  bool Withdraw(uint32_t call_id) {
    {
      MutexLock lock(&mutex_);
      const auto found = std::find_if(out_.begin(), out_.end(), [call_id](const auto& late) {
        return late.message->header.type == FrameType::kCall &&
               late.message->header.call_id == call_id;
      });
      if (found != out_.end()) {
        out_.erase(found);
        return true;
      }
    }
    return inner_->Withdraw(call_id);
  }

  // Sends what is late, then closes.
  void Close(absl::Status why) {
    {
      MutexLock lock(&mutex_);
      if (ended_) return;
      ended_ = true;
      SendAllLate();
    }
    inner_->Close(std::move(why));
  }

  bool HasUnsent() {
    {
      MutexLock lock(&mutex_);
      if (!out_.empty()) return true;
    }
    return inner_->HasUnsent();
  }

  // Sends what is late, as Close does.
  void CloseWhenSent() {
    {
      MutexLock lock(&mutex_);
      SendAllLate();
    }
    inner_->CloseWhenSent();
  }

  bool InCallback() const {
    for (const Frame* frame = frames_; frame != nullptr; frame = frame->outer) {
      if (frame->core == this) return true;
    }
    return inner_->InCallback();
  }

  void OnMessage(IncomingMessage&& message) override {
    const Callback callback(*this);
    Fate fate;
    {
      MutexLock lock(&mutex_);
      if (lost_) return;
      fate = script_->FateOf(Way::kReceived, message.header());
      if (!in_.empty() || fate.delay > absl::ZeroDuration()) {
        in_.push_back({std::move(message), fate.kind, DueAfter(in_, fate.delay)});
        ScheduleLocked();
        return;
      }
    }
    Receive(std::move(message), fate.kind);
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
    const Callback callback(*this);
    receiver_->OnWritable();
  }
  void OnClosed(const absl::Status& why) override {
    const Callback callback(*this);
    std::deque<Late<OutgoingMessage>> unsent;
    std::deque<Late<IncomingMessage>> unread;
    bool lost = false;
    {
      MutexLock lock(&mutex_);
      ended_ = true;
      lost = lost_;
      timer_.reset();
      unsent.swap(out_);
      unread.swap(in_);
    }
    for (auto& late : unread) {
      if (lost || late.kind == Fate::Kind::kLose) break;
      if (late.kind == Fate::Kind::kPass) receiver_->OnMessage(std::move(late.message));
    }
    for (const auto& late : unsent) receiver_->OnUnsent(late.message->header, LostBeforeSend());
    receiver_->OnClosed(lost ? Lost() : why);
    receiver_.reset();
  }

 private:
  template <typename Message>
  struct Late {
    Message message;
    Fate::Kind kind;
    Deadline due;
  };
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

  // Never before those in front of it.
  template <typename Message>
  static Deadline DueAfter(const std::deque<Late<Message>>& queue, absl::Duration delay) {
    const Deadline due = Deadline::After(delay);
    return queue.empty() ? due : std::max(due, queue.back().due);
  }

  // True: the caller closes the inner connection, without the lock.
  bool LoseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return false;
    ended_ = lost_ = true;
    in_.clear();
    return true;
  }

  // Inside a Callback.
  void Receive(IncomingMessage message, Fate::Kind kind) {
    if (kind == Fate::Kind::kPass) {
      receiver_->OnMessage(std::move(message));
    } else if (kind == Fate::Kind::kLose) {
      bool lose = false;
      {
        MutexLock lock(&mutex_);
        lose = LoseLocked();
      }
      if (lose) inner_->Close(absl::OkStatus());
    }
  }

  void ScheduleLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Deadline due;
    if (!out_.empty()) due = out_.front().due;
    if (!in_.empty()) due = std::min(due, in_.front().due);
    if (due.infinite()) return;
    if (!timer_.has_value()) {
      timer_.emplace(loop_, [weak = weak_from_this()] {
        if (const std::shared_ptr<Core> core = weak.lock()) core->Tick();
      });
    }
    timer_->Schedule(due);
  }

  // On the loop.
  void Tick() {
    while (SendLate()) {
    }
    while (ReceiveLate()) {
    }
    MutexLock lock(&mutex_);
    if (timer_.has_value()) ScheduleLocked();  // there is none after the end
  }

  void SendAllLate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (auto& late : out_) {
      if (late.kind == Fate::Kind::kLose) break;
      if (late.kind == Fate::Kind::kPass) inner_->Send(std::move(late.message)).IgnoreError();
    }
    out_.clear();
  }

  bool SendLate() {
    FrameHeader header;
    absl::Status sent;
    bool lose = false;
    {
      MutexLock lock(&mutex_);
      if (ended_ || out_.empty() || !out_.front().due.passed()) return false;
      Late<OutgoingMessage> late = std::move(out_.front());
      out_.pop_front();
      header = late.message->header;
      if (late.kind == Fate::Kind::kPass) sent = inner_->Send(std::move(late.message));
      lose = late.kind == Fate::Kind::kLose && LoseLocked();
    }
    if (lose) inner_->Close(absl::OkStatus());
    if (!sent.ok()) {
      const Callback callback(*this);
      if (receiver_ != nullptr) receiver_->OnUnsent(header, sent);
    }
    return true;
  }

  bool ReceiveLate() {
    // First, so that no message that comes now overtakes this one.
    const Callback callback(*this);
    std::optional<Late<IncomingMessage>> late;
    {
      MutexLock lock(&mutex_);
      if (in_.empty() || !in_.front().due.passed()) return false;
      late = std::move(in_.front());
      in_.pop_front();
    }
    if (receiver_ != nullptr) Receive(std::move(late->message), late->kind);
    return true;
  }

  static constinit thread_local Frame* frames_;

  EventLoop* const loop_;
  const std::shared_ptr<Connection> inner_;
  const std::shared_ptr<Script> script_;

  Mutex callback_mutex_;
  std::shared_ptr<Receiver> receiver_;  // guarded by callback_mutex_, by way of Callback

  Mutex mutex_;
  std::deque<Late<OutgoingMessage>> out_ ABSL_GUARDED_BY(mutex_);
  std::deque<Late<IncomingMessage>> in_ ABSL_GUARDED_BY(mutex_);
  std::optional<EventLoop::Timer> timer_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
};

constinit thread_local Core::Frame* Core::frames_ = nullptr;

class ScriptedConnection final : public Connection {
 public:
  explicit ScriptedConnection(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  // The core and the inner connection refer to each other until the end.
  ~ScriptedConnection() override { core_->Close(absl::OkStatus()); }

  void Start(std::shared_ptr<Receiver> receiver) override { core_->Start(std::move(receiver)); }
  absl::StatusOr<OutgoingMessage> Reserve(size_t bytes) override {
    return core_->inner().Reserve(bytes);
  }
  absl::Status Send(OutgoingMessage&& message) override { return core_->Send(std::move(message)); }
  bool Withdraw(uint32_t call_id) override { return core_->Withdraw(call_id); }
  bool HasRoom() override { return core_->inner().HasRoom(); }
  void RequestWritable() override { core_->inner().RequestWritable(); }
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

std::shared_ptr<Connection> Scripted(std::shared_ptr<Connection> inner, EventLoop* loop,
                                     std::shared_ptr<Script> script) {
  return std::make_shared<ScriptedConnection>(
      std::make_shared<Core>(std::move(inner), loop, std::move(script)));
}

}  // namespace mi7::transport::fault
