#pragma once

// In-process channels: typed queues between the threads and coroutines of one process, held by
// their two ends. Between processes, use a slot pipe; select.h waits for several of both.
//
//   auto [sender, receiver] = mi7::channels::Bounded<std::string>(16);
//
//   std::thread producer([out = std::move(sender)] {
//     for (std::string& line : ReadLines()) {
//       if (!out.Send(std::move(line)).ok()) break;   // waits while 16 are unread
//     }
//   });                                               // its sender was the last one: closed
//   for (std::string& line : receiver.Values()) Print(line);   // until closed
//
// In a coroutine on an event loop: `co_await receiver.ReceiveOn(loop)`.
//
//   bounded     a sender waits while the channel is full: back-pressure
//   unbounded   a sender never waits; what is unread takes memory
//   closed      by Close(), or when the last Sender or the last Receiver is gone. Nothing more is
//               sent; what was sent is received first (unless no Receiver is left), also what is
//               on its way to a coroutine that is destroyed then
//
// What cannot be done is told by these codes:
//
//   RESOURCE_EXHAUSTED   full (TrySend)
//   UNAVAILABLE          empty (TryReceive)
//   DEADLINE_EXCEEDED    neither within the deadline
//   CANCELLED            disconnected: the channel is closed, and will be
//
// Each value is received once. Values of one sender are received in the order they were sent. Who
// waits is served first come, first served, whether thread or coroutine, and nobody overtakes it.

#include <coroutine>
#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/deadline.h"
#include "channels/awaiters.h"
#include "channels/channel_state.h"
#include "channels/wait.h"
#include "transport/event_loop.h"

namespace mi7::channels {

template <typename T>
class Sender;
template <typename T>
class Receiver;

// Both ends of a new channel.
template <typename T>
struct Ends {
  Sender<T> sender;
  Receiver<T> receiver;
};

// A channel that keeps at most `capacity` values, 1 or more.
template <typename T>
Ends<T> Bounded(size_t capacity) {
  MI7_CHECK(capacity > 0, "a bounded channel has room for a value");
  auto state = std::make_shared<channels_internal::ChannelState<T>>(capacity);
  return {Sender<T>(state), Receiver<T>(state)};
}

// A channel that keeps all values.
template <typename T>
Ends<T> Unbounded() {
  return Bounded<T>(std::numeric_limits<size_t>::max());
}

// A sending end. Copies are further senders of the same channel. T moves without throwing.
// Thread-safe but for assignment and destruction: one object may serve many threads. An end that is
// default-made or moved from belongs to no channel and can only be assigned to and asked `bool`.
template <typename T>
class Sender {
 public:
  Sender() = default;
  Sender(const Sender& other) : state_(other.state_) {
    if (state_ != nullptr) state_->AddSender();
  }
  Sender(Sender&& other) noexcept = default;
  Sender& operator=(Sender other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~Sender() {
    if (state_ != nullptr) state_->DropSender();
  }
  explicit operator bool() const { return state_ != nullptr; }

  // Waits for room. `value` is moved from when OK, and else as it was.
  absl::Status Send(T&& value, Deadline deadline = Deadline::Infinite()) const {
    return channels_internal::BlockingSend(*state_, value, deadline);
  }
  absl::Status Send(const T& value, Deadline deadline = Deadline::Infinite()) const {
    return Send(T(value), deadline);
  }
  absl::Status TrySend(T&& value) const {
    switch (state_->Push(value, nullptr)) {
      case channels_internal::Outcome::kDone:
        return absl::OkStatus();
      case channels_internal::Outcome::kClosed:
        return channels_internal::ClosedToSendersError();
      default:
        return channels_internal::FullError();
    }
  }
  absl::Status TrySend(const T& value) const { return TrySend(T(value)); }

  // co_await SendOn(...), at once, gives the status of Send. What needs no waiting is done without
  // suspending; else the coroutine goes on on `loop`, which outlives the wait, as does this end. It
  // may be destroyed while it waits, on the loop's thread; then the value may have been sent.
  channels_internal::SendAwaiter<T> SendOn(transport::EventLoop* loop, T&& value,
                                           Deadline deadline = Deadline::Infinite()) const {
    return channels_internal::SendAwaiter<T>(*state_, loop, value, deadline);
  }

  // For all senders and receivers. Thread-safe; no harm in doing it twice.
  void Close() const { state_->Close(); }
  bool closed() const { return state_->closed(); }
  // Values that were sent and not received, at some moment.
  size_t size() const { return state_->size(); }
  // SIZE_MAX when unbounded.
  size_t capacity() const { return state_->capacity(); }

 private:
  template <typename U>
  friend Ends<U> Bounded(size_t capacity);
  friend struct channels_internal::StateOf;
  explicit Sender(std::shared_ptr<channels_internal::ChannelState<T>> state)
      : state_(std::move(state)) {
    state_->AddSender();
  }

  std::shared_ptr<channels_internal::ChannelState<T>> state_;
};

template <typename T>
class ValueRange;

// A receiving end. Copies are further receivers of the same channel, each value goes to one of
// them. Thread-safe as Sender is.
template <typename T>
class Receiver {
 public:
  Receiver() = default;
  Receiver(const Receiver& other) : state_(other.state_) {
    if (state_ != nullptr) state_->AddReceiver();
  }
  Receiver(Receiver&& other) noexcept = default;
  Receiver& operator=(Receiver other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~Receiver() {
    if (state_ != nullptr) state_->DropReceiver();
  }
  explicit operator bool() const { return state_ != nullptr; }

  // Waits for a value.
  absl::StatusOr<T> Receive(Deadline deadline = Deadline::Infinite()) const {
    return channels_internal::BlockingReceive(*state_, deadline);
  }
  absl::StatusOr<T> TryReceive() const {
    std::optional<T> value;
    switch (state_->Pop(value, nullptr)) {
      case channels_internal::Outcome::kDone:
        return *std::move(value);
      case channels_internal::Outcome::kClosed:
        return channels_internal::ClosedToReceiversError();
      default:
        return channels_internal::EmptyError();
    }
  }

  // As Sender::SendOn. The value for a coroutine that is gone meanwhile goes to another receiver.
  channels_internal::ReceiveAwaiter<T> ReceiveOn(transport::EventLoop* loop,
                                                 Deadline deadline = Deadline::Infinite()) const {
    return channels_internal::ReceiveAwaiter<T>(*state_, loop, deadline);
  }

  // for (T& value : receiver.Values()): receives until the channel is closed and empty, or until
  // `deadline`; status() of the range tells which. The range holds this end by reference.
  ValueRange<T> Values(Deadline deadline = Deadline::Infinite()) const {
    return ValueRange<T>(this, deadline);
  }

  void Close() const { state_->Close(); }
  bool closed() const { return state_->closed(); }
  size_t size() const { return state_->size(); }
  size_t capacity() const { return state_->capacity(); }

 private:
  template <typename U>
  friend Ends<U> Bounded(size_t capacity);
  friend struct channels_internal::StateOf;
  explicit Receiver(std::shared_ptr<channels_internal::ChannelState<T>> state)
      : state_(std::move(state)) {
    state_->AddReceiver();
  }

  std::shared_ptr<channels_internal::ChannelState<T>> state_;
};

// What Receiver::Values makes. One thread; can be gone through once.
template <typename T>
class ValueRange {
 public:
  class Iterator {
   public:
    T& operator*() const { return **range_->value_; }
    T* operator->() const { return &**range_->value_; }
    Iterator& operator++() {
      range_->Next();
      return *this;
    }
    friend bool operator==(const Iterator& a, const Iterator& b) { return a.AtEnd() == b.AtEnd(); }

   private:
    friend class ValueRange;
    explicit Iterator(ValueRange* range) : range_(range) {}
    bool AtEnd() const { return range_ == nullptr || !range_->value_->ok(); }
    ValueRange* range_;
  };
  Iterator begin() {
    Next();
    return Iterator(this);
  }
  Iterator end() { return Iterator(nullptr); }
  // Why the range ended: CANCELLED or DEADLINE_EXCEEDED.
  absl::Status status() const { return value_.has_value() ? value_->status() : absl::OkStatus(); }

 private:
  friend class Receiver<T>;
  ValueRange(const Receiver<T>* receiver, Deadline deadline)
      : receiver_(receiver), deadline_(deadline) {}
  void Next() {
    value_.reset();  // before the next one is waited for
    value_.emplace(receiver_->Receive(deadline_));
  }

  const Receiver<T>* receiver_;
  Deadline deadline_;
  std::optional<absl::StatusOr<T>> value_;
};

}  // namespace mi7::channels
