#pragma once

// Stream: one end of a stream. It joins the two halves with the call that the stream is and with
// the connection that carries it. CallerStream and CalleeStream are the two kinds.
//
// What is sent for a stream names it by its call's id, which is free for another call when the
// return has passed: nothing may be sent for it after that. So everything is sent under
// `send_mutex_`, and who ends the call (the callee before it sends the return, the caller before it
// frees the id) calls StopSending first.
//
// A call that is made again goes on as the same stream: Disconnect, and Connect for the next
// attempt. What is sent says for which attempt it is, so that a thread that was about to send for
// an earlier one sends nothing.
//
// Locks, in this order: a call side's or answer side's mutex, send_mutex_, a half's mutex,
// SessionStreams' or the connection's own.

#include <atomic>
#include <cstdint>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "rpc/interceptor.h"
#include "rpc/interface_info.h"
#include "rpc/session_streams.h"
#include "rpc/stream_inbox.h"
#include "rpc/stream_outbox.h"
#include "transport/completion.h"
#include "transport/connection.h"
#include "transport/frame.h"
#include "transport/message.h"

namespace mi7 {

class ClientCall;

constexpr transport::StreamDirection Opposite(transport::StreamDirection direction) {
  using enum transport::StreamDirection;
  return direction == kToCallee ? kToCaller : kToCallee;
}

// Thread-safe, but for the halves' own rules.
class Stream : public Readiness::Owner {
 public:
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  StreamInbox& inbox() { return inbox_; }
  StreamOutbox& outbox() { return outbox_; }
  const MethodInfo& method() const { return method_; }
  absl::string_view name() const override { return method_.name; }
  const Limits& limits() const { return limits_; }
  // The direction in which this end sends.
  transport::StreamDirection outgoing() const { return outgoing_; }
  // Of the channel or server; nullptr: none.
  const Interceptors* interceptors() const { return interceptors_; }

  // Blocks until `half` is ready: OK. FAILED_PRECONDITION: this thread would wait for itself.
  absl::Status Await(Readiness& half);
  // Called before a callback or coroutine waits.
  virtual void WantBackground() = 0;
  // Memory for the next message.
  virtual transport::OutgoingMessage NewMessage() = 0;
  // The call, at the caller's end; nullptr at the callee's.
  virtual ClientCall* call() { return nullptr; }
  // What came along with the first message, which is about to be given to the user; not OK: the
  // stream has failed because of it.
  virtual absl::Status ReceiveExtra(const transport::IncomingMessage&) { return absl::OkStatus(); }
  // The first message has come; before ReceiveExtra. The driving thread.
  virtual void OnFirstMessage(const transport::IncomingMessage&) {}
  // A message that was taken turned out to be malformed: ends the stream. The status, for whoever
  // took it. Inside a catch block.
  virtual absl::Status FailMalformed() = 0;
  // A message that has come, or was to come, cannot be given to the user: ends what is received.
  virtual void FailInput(const absl::Status& why) = 0;

  // --- For the runtime ---

  // A frame of the stream; INVALID_ARGUMENT when the peer broke the protocol. The driving thread.
  absl::Status OnFrame(transport::IncomingMessage&& message);
  // Whether such a frame, which OnFrame has not seen yet, is a stray one: of a direction in which
  // the method does not stream, or one of many where an honest peer sends few.
  bool IsStray(const transport::FrameHeader& header) const;
  // A message of the stream that the transport could not deliver: ends what is received.
  absl::Status OnRejected(const transport::FrameHeader& header, const absl::Status& why);
  // Frames that the peer may have on their way when the stream ends at this end: messages, and of
  // others StreamEnd and credit, of which one may come for each half window.
  uint32_t LateFramesMost() const;
  static constexpr uint32_t kLateOthers = 4;
  // Whether a message has come. A hint, except on the driving thread.
  bool received_any() const { return received_any_.load(std::memory_order_relaxed); }
  // There is room in the connection's queue.
  void OnRoom();
  // When it has returned, nothing is sent for the stream any more.
  void StopSending() {
    MutexLock lock(&send_mutex_);
    stopped_ = true;
  }
  // Whether its frames are those of `of`, to which the stream may list itself.
  bool IsOf(const SessionStreams& of) const { return streams() == &of; }

  // --- For the halves ---

  // Adds to a message, as long as none was sent, what else goes with the first one.
  void PrepareFirst(transport::MessageBody& message) {
    MutexLock lock(&send_mutex_);
    if (!stopped_) AddToFirst(message);
  }
  // That message was not sent: what went along goes with the next one.
  void FirstWasNotSent() {
    MutexLock lock(&send_mutex_);
    if (!stopped_) TakeBackFromFirst();
  }
  // Whether the connection has room; when not, OnRoom follows.
  bool HasRoom();
  // The attempt at the call (from 0) that it is sent for: OK, and nothing, if that is over.
  absl::Status SendMessage(transport::OutgoingMessage message, uint32_t attempt);
  void SendEnd(uint32_t attempt) { SendControl(transport::FrameType::kStreamEnd, 0, 0, attempt); }
  // A message that was sent in an earlier attempt cannot be sent again.
  virtual void FailAgain(const absl::Status&) {}
  void SendCredit(uint32_t bytes);
  // SessionStreams' for messages that have been received.
  bool Keep(uint32_t bytes) { return streams()->Keep(bytes, limits_.stream_kept_bytes_max); }
  void LetGo(uint32_t bytes) { streams()->LetGo(bytes); }
  // A message came for which there was no room.
  void FailTooMuchKept();

 protected:
  // `outgoing`: the direction in which this end sends. `interceptors`: nullptr, or those whose
  // OnStart has run or will have before the first message; must outlive the stream.
  Stream(const MethodInfo& method, transport::StreamDirection outgoing, const Limits& limits,
         const Interceptors* interceptors);
  virtual ~Stream() = default;

  // From now on there is a connection, on which the call has the id. `streams` outlives the stream,
  // or is kept alive by its owner. Once an attempt.
  void Connect(SessionStreams& streams, uint32_t call_id);
  // The attempt is over: nothing is sent until Connect.
  void Disconnect();
  bool StreamsIn() const;
  bool StreamsOut() const;
  // Prefixed with the method's name.
  absl::Status Named(absl::StatusCode code, absl::string_view text) const;
  SessionStreams* streams() const { return streams_.load(std::memory_order_acquire); }

 private:
  // A message from the peer for a half that this method does not have.
  virtual absl::Status OnUnexpectedMessage() = 0;
  // The call is not over.
  virtual void AddToFirst(transport::MessageBody&) {}
  virtual void TakeBackFromFirst() {}
  // OK, or why this thread must not block.
  virtual absl::Status MayBlock() = 0;
  // Blocks until `completion` is done (true) or `deadline` passed.
  virtual bool Sleep(transport::Completion& completion, Deadline deadline) = 0;
  virtual Deadline deadline() const = 0;
  // The deadline passed while a thread waited: ends the stream.
  virtual void OnDeadline() = 0;

  // Of whatever attempt the stream is in.
  static constexpr uint32_t kAnyAttempt = ~uint32_t{0};
  void SendControl(transport::FrameType type, uint16_t code, uint32_t bytes, uint32_t attempt);
  absl::Status Send(transport::OutgoingMessage message, uint32_t attempt);

  friend class SessionStreams;

  const MethodInfo& method_;
  const transport::StreamDirection outgoing_;
  const Limits& limits_;
  const Interceptors* const interceptors_;
  StreamInbox inbox_;
  StreamOutbox outbox_;
  // Written by Connect and Disconnect (release), and read by other threads (acquire). nullptr:
  // there is no connection. What it was before lives as long as the stream.
  std::atomic<SessionStreams*> streams_{nullptr};
  std::atomic<bool> received_any_{false};  // relaxed: the driving thread's
  Mutex send_mutex_;
  bool stopped_ ABSL_GUARDED_BY(send_mutex_) = false;
  uint32_t call_id_ ABSL_GUARDED_BY(send_mutex_) = 0;
  uint32_t attempt_ ABSL_GUARDED_BY(send_mutex_) = 0;
  // SessionStreams', under its mutex.
  bool waits_for_room_ = false;
  Stream* next_waiting_ = nullptr;
};

// Owning reference to a Stream. Move-only.
class StreamRef {
 public:
  StreamRef() = default;
  // Takes over one reference.
  explicit StreamRef(Stream* stream) : stream_(stream) {}
  StreamRef(StreamRef&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  StreamRef& operator=(StreamRef&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~StreamRef() {
    if (stream_ != nullptr) stream_->Unref();
  }
  // A further reference.
  StreamRef Share() const {
    stream_->Ref();
    return StreamRef(stream_);
  }
  Stream* get() const { return stream_; }
  Stream* operator->() const { return stream_; }
  explicit operator bool() const { return stream_ != nullptr; }

 private:
  Stream* stream_ = nullptr;
};

}  // namespace mi7
