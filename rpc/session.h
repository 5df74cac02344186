#pragma once

// Session: what rpc keeps for one connection. It receives the connection's messages and gives each
// to the half it concerns: calls of the peer (AnswerSide), answers to our calls (CallSide).
//
// Ownership: the connection keeps its session until OnClosed has returned, the session keeps the
// connection; a call in flight keeps the session. Made by Channel and Server.

#include <atomic>
#include <memory>

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

  // Tells the peer that calls are refused from now on, and refuses them. OnDrained follows, at
  // once when nothing is in flight. Any thread.
  void Drain();

  // --- transport::Receiver ---
  void OnMessage(transport::IncomingMessage&& message) override;
  void OnWritable() override { streams_.OnWritable(); }
  void OnRejected(const transport::FrameHeader& header, const absl::Status& why) override;
  void OnUnsent(const transport::FrameHeader& header, const absl::Status& why) override;
  void OnClosed(const absl::Status& why) override;

  // --- AnswerSide::Owner ---
  SessionStreams& streams() override { return streams_; }
  std::shared_ptr<void> KeepAlive() override { return shared_from_this(); }
  const std::shared_ptr<Timers>& timers() const override { return config_->timers; }
  void OnAnswersDone(bool draining) override;

 private:
  Session(std::shared_ptr<transport::Connection> connection, std::weak_ptr<Observer> observer,
          std::shared_ptr<const SessionConfig> config, const transport::Negotiated& negotiated);
  void OnStreamFrame(transport::IncomingMessage&& message);
  void SendControl(transport::FrameType type, uint32_t call_id);
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
};

}  // namespace mi7
