#pragma once

// Session: what rpc keeps for one connection. It receives the connection's messages and gives each
// to the half it concerns: calls of the peer (AnswerSide), answers to our calls (CallSide).
//
// Ownership: the connection keeps its session until OnClosed has returned, the session keeps the
// connection; a call in flight keeps the session. Made by Channel and Server.

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "base/limits.h"
#include "rpc/answer_side.h"
#include "rpc/call_side.h"
#include "rpc/session_config.h"
#include "rpc/session_streams.h"
#include "rpc/timers.h"
#include "transport/connection.h"

namespace mi7 {

class Session final : public transport::Receiver,
                      public AnswerSide::Owner,
                      public std::enable_shared_from_this<Session> {
 public:
  // Who made the session. Called on the driving thread, except where said.
  class Observer {
   public:
    // The peer accepts no further calls.
    virtual void OnGoAway(Session& session) = 0;
    // The last callback.
    virtual void OnSessionClosed(Session& session, const absl::Status& why) = 0;
    // After Drain: no accepted call is in flight any more. Any thread.
    virtual void OnDrained(Session& session) = 0;

   protected:
    ~Observer() = default;
  };

  // `observer`: told as long as it lives.
  Session(std::shared_ptr<transport::Connection> connection, std::weak_ptr<Observer> observer,
          std::shared_ptr<const SessionConfig> config);

  transport::Connection& connection() override { return *connection_; }
  CallSide& calls() { return calls_; }
  AnswerSide& answers() { return answers_; }

  // --- Whether the peer lives: for LivenessWatch, which calls it on its loop's thread

  // To be called after a call has come to be in flight. Any thread.
  void NoteCall() {
    // Relaxed: either side takes the lock of the calls in between, see StopWatching.
    if (!watched_.load(std::memory_order_relaxed)) [[unlikely]]
      BeWatched();
  }
  // What LivenessWatch has seen of it; nobody else uses it.
  struct Looks {
    uint32_t quiet : 15 = 0;       // looks since something arrived; saturates
    uint32_t unanswered : 14 = 0;  // since a ping was sent, the one at which it was included
    uint32_t used : 1 = 0;         // something has arrived
    uint32_t going : 1 = 0;        // it was asked to go away, being idle
    // Constant: whether a peer can be gone, or hang, unnoticed.
    uint32_t may_be_half_open : 1 = 0;
  };
  Looks& looks() { return looks_; }
  // Whether something has arrived since the last time.
  bool TakeSignsOfLife() {
    return static_cast<int>(heard_.exchange(false, std::memory_order_relaxed)) +
               static_cast<int>(connection_->TakeSignsOfLife()) !=
           0;
  }
  // Whether the driving thread is in the handler of a call at this moment.
  bool answering() const {
    return answering_.load(std::memory_order_relaxed) != Answering::kNothing;
  }
  // Calls whose handlers have begun and not answered. Any thread, to which it may be another number
  // by then.
  size_t unanswered_calls() const {
    const bool is_inline = answering_.load(std::memory_order_relaxed) == Answering::kInline;
    return answers_.in_flight() + (is_inline ? 1 : 0);
  }
  // Whether the peer has still to take something that was sent to it, such as answers to its calls.
  bool has_unsent() const { return connection_->HasUnsent(); }
  bool has_calls() const { return !calls_.idle() || answers_.in_flight() != 0; }
  void Ping() { SendControl(transport::FrameType::kPing, 0); }
  // It has not answered that.
  void GiveUpPeer(const Keepalive& keepalive);
  // No call is in flight, for long. A client closes; a server asks the client to, and closes itself
  // when `asked` says that it did so before.
  void EndIdle(bool asked);
  // False: a call has come, it is watched further.
  bool StopWatching();

  // Tells the peer that calls are refused from now on, and refuses them; then, as soon as the
  // driving thread comes to it, which calls were accepted and are not answered yet. OnDrained
  // follows, at once when nothing is in flight. Any thread.
  void Drain();

  // --- transport::Receiver ---
  void OnMessage(transport::IncomingMessage&& message) override;
  void OnWritable() override {
    streams_.OnWritable();
    if (answers_.names_due.load(std::memory_order_acquire)) NameAccepted();
  }
  void OnRejected(const transport::FrameHeader& header, const absl::Status& why) override;
  void OnUnsent(const transport::FrameHeader& header, const absl::Status& why) override;
  void OnClosed(const absl::Status& why) override;

  // --- AnswerSide::Owner ---
  SessionStreams& streams() override { return streams_; }
  std::shared_ptr<void> KeepAlive() override {
    NoteCall();
    // Of the call that is being answered: from here on it is one of the answers' in flight.
    answering_.store(Answering::kAsync, std::memory_order_relaxed);
    return shared_from_this();
  }
  const std::shared_ptr<Timers>& timers() const override { return config_->timers; }
  void OnAnswersDone(bool draining) override;

 private:
  Session(std::shared_ptr<transport::Connection> connection, std::weak_ptr<Observer> observer,
          std::shared_ptr<const SessionConfig> config, const transport::Negotiated& negotiated);
  // Neither a call nor a return.
  void OnOtherMessage(transport::IncomingMessage&& message);
  void OnStreamFrame(transport::IncomingMessage&& message);
  // What the calls said to a frame of a stream.
  void AfterFrameOfCall(absl::Status valid, CallSide::Stray stray);
  void SendControl(transport::FrameType type, uint32_t call_id);
  // A GoAway: what it says of our calls.
  void OnGoAway(const std::optional<std::vector<uint32_t>>& accepted);
  // Of Drain. In a callback: there is no call that is being answered inline, and what was sent by
  // callbacks is not overtaken.
  void NameAccepted();
  void BeWatched();
  // After a return: a connection that both sides are done with is closed.
  void CloseIfGoneAway();

  const std::shared_ptr<transport::Connection> connection_;
  const std::weak_ptr<Observer> observer_;
  const std::shared_ptr<const SessionConfig> config_;
  SessionStreams streams_;
  CallSide calls_;
  AnswerSide answers_;
  // The peer sent GoAway. Set by the driving thread; seq_cst with the answers' count, so that
  // either it or the last answer's thread sees that both are done.
  std::atomic<bool> gone_away_{false};
  // By config_->liveness, or there is no need to be.
  std::atomic<bool> watched_;
  // A message has arrived. Relaxed: one that a look misses is seen by the next.
  std::atomic<bool> heard_{false};
  // What the handler that the driving thread is in does with its call. Relaxed, as heard_.
  enum class Answering : uint8_t { kNothing, kInline, kAsync };
  std::atomic<Answering> answering_{Answering::kNothing};
  Looks looks_;
};

}  // namespace mi7
