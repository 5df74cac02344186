#pragma once

// AnswerSide: the half of a session that answers the peer's calls.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/deadline.h"
#include "base/fork_guard.h"
#include "base/limits.h"
#include "base/mutex.h"
#include "rpc/call_scope.h"
#include "rpc/dispatcher.h"
#include "rpc/load_control.h"
#include "rpc/server_call.h"
#include "rpc/server_statistics.h"
#include "rpc/session_config.h"
#include "rpc/timers.h"
#include "transport/connection.h"

namespace mi7 {

// Thread-safety: OnCall, OnCancel on the driving thread (never overlapping); Finish and Drain on
// any thread.
class AnswerSide {
 public:
  // Told whenever the last asynchronous call in flight was answered; `draining`: after Drain. Any
  // thread, no lock held.
  class Owner {
   public:
    virtual transport::Connection& connection() = 0;
    virtual SessionStreams& streams() = 0;
    // Keeps the session, and with it this AnswerSide, alive.
    virtual std::shared_ptr<void> KeepAlive() = 0;
    // nullptr on a side that serves nothing.
    virtual const std::shared_ptr<Timers>& timers() const = 0;
    virtual void OnAnswersDone(bool draining) = 0;

   protected:
    ~Owner() = default;
  };

  // Both must outlive the AnswerSide.
  AnswerSide(Owner* owner, const SessionConfig* config) : owner_(owner), config_(config) {}
  ~AnswerSide() { delete counts_.load(std::memory_order_acquire); }

  void OnCall(transport::IncomingMessage&& message);
  // The peer sent a frame that serves nothing (Limits::stray_frames_max). With too many of them the
  // connection is closed.
  void OnStray();
  // The same of a frame for a stream, of either side, that is over; those that may have been sent
  // before the peer could know serve nothing either, but are not counted.
  void OnStrayOfStream() {
    if (!streams().TakeLate()) OnStray();
  }
  void OnCancel(uint32_t call_id);
  // A frame of a stream; INVALID_ARGUMENT when the peer broke the protocol. Those of calls that are
  // over, which it may not know yet, are dropped.
  absl::Status OnStreamFrame(transport::IncomingMessage&& message);
  // A message of a stream that the transport could not deliver, or not send. INVALID_ARGUMENT as
  // above.
  absl::Status OnRejectedStreamMessage(const transport::FrameHeader& header,
                                       const absl::Status& why);
  void OnUnsentStreamMessage(const transport::FrameHeader& header, const absl::Status& why);
  // A call that the transport could not deliver: too large, or malformed.
  void OnRejectedCall(const transport::FrameHeader& header, const absl::Status& why);
  // A return that the connection dropped unsent. When it was for want of memory, its caller is told
  // so instead.
  void OnUnsent(const transport::FrameHeader& header, const absl::Status& why);
  // Marks what is in flight as cancelled, but for calls whose caller may come back for the answer;
  // nothing is sent any more.
  void OnClosed();
  // After OnClosed: those are cancelled, too. Any thread.
  void Abandon() {
    Drain();
    OnClosed();
  }

  // From now on calls are refused. True when none is in flight, else OnAnswersDone follows.
  bool Drain();
  // After it, on the driving thread, but not inside OnCall: the ids of all calls that were accepted
  // and whose return was not handed to the connection; perhaps also of some whose return was, at
  // this moment. In their order.
  std::vector<uint32_t> Accepted() const;
  size_t in_flight() const;
  // Of this connection. Any thread.
  ServerStatistics statistics() const;

  // --- For ServerCall ---
  const Limits& limits() const { return config_->limits; }
  std::string peer() { return owner_->connection().info().peer; }
  std::string transport_name() { return owner_->connection().info().transport; }
  SessionStreams& streams() { return owner_->streams(); }
  const std::shared_ptr<Timers>& timers() const { return owner_->timers(); }
  std::shared_ptr<void> RegisterAsync(ServerCall& call);
  // The call's scope, made when it is first asked for.
  std::shared_ptr<CallScope> ScopeOf(ServerCall& call);
  // Sends the return. Once a call. In a forked child: nothing, the call is the parent's.
  void Finish(ServerCall& call, const absl::Status& status);

  // The handler of a call that is in SavedAnswers has answered.
  void SaveAnswer(ServerCall& call, const absl::Status& status);

  // The server waits for no handler any more. Relaxed: who polls sees it sooner or later.
  bool cut_off() const {
    return config_->ends_at_ns != nullptr &&
           Deadline::AtNanos(config_->ends_at_ns->load(std::memory_order_relaxed)).passed();
  }
  // Whether this process was forked from the one that was called.
  bool forked() const { return ForkGuard::generation() != made_in_; }

 private:
  // Raised by the driving thread.
  struct Counts {
    EventCount accepted;
    EventCount refused;
    EventCount dropped_late;
    EventCount recognized;
  };
  // The driving thread's.
  Counts& counts() {
    Counts* const made = counts_.load(std::memory_order_relaxed);
    return made != nullptr ? *made : MakeCounts();
  }
  Counts& MakeCounts();

  // OK when a new call may start; INVALID_ARGUMENT when the peer broke the protocol.
  absl::Status Admit(const transport::FrameHeader& header) const {
    return admits_all_.load(std::memory_order_relaxed) ? absl::OkStatus() : AdmitSlow(header);
  }
  absl::Status AdmitSlow(const transport::FrameHeader& header) const;
  // Whether Limits::request_bytes_max has room for the call beside those in flight, of which there
  // is one at least.
  bool HasRoomFor(const transport::FrameHeader& header) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Others are in flight, so it may be one of many that are answered later: where it holds much
  // more memory than it has bytes (a buffer that many messages were received into), it is copied,
  // so that what a peer can make us keep is in proportion to Limits::request_bytes_max.
  static void HoldLess(transport::IncomingMessage& message);
  // A call exceeds `limit`.
  absl::Status Refusal(absl::string_view limit, uint64_t value) const;
  // Whether the call is of control priority.
  bool IsControl(const transport::FrameHeader& header) const;
  // What the server's limits say to a call that arrived; its share of them.
  absl::Status TakeOn(const transport::IncomingMessage& message, LoadControl::Share& share);
  // A call whose deadline passed before its handler began.
  void DropLate(ServerCall& call);
  // Of a call with a request id. False: it is not to be run; somebody answers it, or has.
  bool RunsOnce(ServerCall& call);
  // `call` is one of which another attempt runs as `entry`: it is answered as that one is, or when
  // its caller gives up.
  void AwaitAnswer(ServerCall& call, const MethodInfo& method,
                   const std::shared_ptr<SavedAnswers::Entry>& entry);
  // Of a call that is known by its id, streams, or has a scope.
  void FinishUnusual(ServerCall& call, const absl::Status& status);
  void SendReturn(ServerCall& call, const absl::Status& status);
  void AddMetadata(const ResponseMetadata& metadata, transport::MessageBody& response);
  // The return of a call that ended with `status` was refused by the connection, with `sent`.
  void ReturnUnsent(uint32_t call_id, const absl::Status& status, const absl::Status& sent);
  // nullptr: none in flight has the id.
  ServerCall* FindAsync(uint32_t call_id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (async_calls_ == nullptr) return nullptr;
    const auto found = async_calls_->find(call_id);
    return found == async_calls_->end() ? nullptr : found->second;
  }
  // The stream with this call id, with a reference for the caller; nullptr: there is none.
  CalleeStream* FindStream(uint32_t call_id);
  // Answers a call that no ServerCall exists for. The driving thread.
  void Refuse(const transport::FrameHeader& header, const absl::Status& status) {
    counts().refused.Add();
    ExpectParamsOf(header);
    SendError(header.call_id, status, /*refused=*/true);
  }
  // A call is not begun whose caller may have a window full of its parameters on their way.
  void ExpectParamsOf(const transport::FrameHeader& header);
  void SendError(uint32_t call_id, const absl::Status& status, bool refused);

  Owner* const owner_;
  const SessionConfig* const config_;
  // By id; and what most idle connections do without.
  struct AsyncCalls : absl::flat_hash_map<uint32_t, ServerCall*> {
    // Of the requests of the calls in here.
    uint64_t request_bytes = 0;
    // Ids of calls that are being answered, which have left the table, and whose return may not
    // have been handed to the connection yet. The caller may use one again before it goes: then it
    // is here twice. No more than threads that answer.
    absl::InlinedVector<uint32_t, 2> returning;
    // Of requests in flight, where the server limits them (LoadControl). Not under the mutex.
    std::atomic<uint64_t> load_bytes{0};
    // Frames that served nothing since stray_since_s.
    uint32_t stray_frames = 0;
    uint32_t stray_since_s = 0;
  };
  AsyncCalls& async_calls() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (async_calls_ == nullptr) async_calls_ = std::make_unique<AsyncCalls>();
    return *async_calls_;
  }
  // nullptr until needed; then it stays.
  std::unique_ptr<AsyncCalls> async_calls_ ABSL_GUARDED_BY(mutex_);
  mutable Mutex mutex_;
  // Asynchronous calls whose return was not handed to the connection yet; those of async_calls_ and
  // those that are just being answered.
  uint32_t async_unfinished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  // Neither draining nor asynchronous calls in flight. Changed under the mutex. Read without it: a
  // handler's own deferral is seen by the thread that drives next, and a drain counts for the calls
  // that come after it told the peer.
  std::atomic<bool> admits_all_{true};

 public:
  // The session's, here because it takes no memory: Drain is to be followed by the names of the
  // accepted calls. Release, acquire: the driving thread that sees it refuses calls.
  std::atomic<bool> names_due{false};

 private:
  const uint32_t made_in_ = ForkGuard::generation();
  // Made by the driving thread for the first call, published with release: most connections of a
  // client answer none.
  std::atomic<Counts*> counts_{nullptr};
};

}  // namespace mi7
