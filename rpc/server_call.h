#pragma once

// ServerCall: one call on the side that answers it, from the arrival of the request to the send of
// its return.
//
// Ownership: the session makes it and hands it to the service's handler. An inline answer ends it
// inside the session's OnMessage. A deferred or coroutine call becomes asynchronous
// (PrepareAsync): it then keeps its session alive, is known there by its call id (for cancellation
// and draining), and is ended by Answer on whatever thread.
//
// Thread-safety: one thread at a time, handed over by the handler's own means; Cancel() any thread.

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "base/deadline.h"
#include "base/object_pool.h"
#include "rpc/call_extras.h"
#include "rpc/call_scope.h"
#include "rpc/message_reader.h"
#include "rpc/server_context.h"
#include "rpc/stream.h"
#include "transport/message.h"

namespace mi7 {

class AnswerSide;
class CalleeStream;
struct SavedAnswer;
template <typename T>
class StreamReader;
template <typename T>
class StreamWriter;

class ServerCall {
 public:
  ServerContext& context() { return context_; }

  // The parameters, read in place. Throws kj::Exception when the message is malformed; caught at
  // dispatch and answered with INVALID_ARGUMENT.
  template <typename P>
  typename P::Reader Params() {
    return body_.Root<P>(request_, *limits_);
  }
  // The results, built where the transport sends them from.
  template <typename R>
  typename R::Builder Results() {
    return response_->template initRoot<R>();
  }

  // Makes it a streaming call of `method`, before the handler runs. False: the caller's mi7 knows
  // no streams.
  bool OpenStream(const MethodInfo& method);
  // Of a streaming call: what the handler gets for parameters and results.
  template <typename P>
  StreamReader<P> Reader() {
    return StreamReader<P>(stream());
  }
  template <typename R>
  StreamWriter<R> Writer() {
    return StreamWriter<R>(stream());
  }

  // --- For the runtime ---

  // `side` outlives the call or is kept alive by PrepareAsync.
  ServerCall(AnswerSide* side, transport::IncomingMessage&& request,
             transport::OutgoingMessage response);
  ~ServerCall();
  ServerCall(const ServerCall&) = delete;
  ServerCall& operator=(const ServerCall&) = delete;

  const transport::FrameHeader& header() const { return request_.header(); }
  const Limits& limits() const { return *limits_; }
  // Those whose OnStart has run; nullptr: none.
  const Interceptors* interceptors() const;
  // Adds the initial metadata to the first message of the results; they go with the return
  // otherwise, and again when that message was not sent.
  void AddInitialMetadata(transport::MessageBody& message);
  void TakeBackInitialMetadata();
  // Sends the return and destroys the call, unless it was answered before (then only the caller's
  // part in it ends).
  void Answer(absl::Status status);
  // The handler returned Reply::Later().
  void ReturnedLater();
  // The same, with what a handler has answered to the same call before.
  void AnswerAgain(const SavedAnswer& answer);
  // The call outlives the handler's return. Idempotent.
  void PrepareAsync();
  // And has two references from now on, of which each ends with Answer or Unref. Once, before
  // anybody else has the call.
  void Share();
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }  // a hint, orders nothing

 private:
  friend class AnswerSide;
  friend class ServerContext;
  friend class DeferredCall;
  friend class ServerInterception;

  void Unref();
  // Ends the interception, which may change the status, then AnswerSide::Finish.
  void Finish(absl::Status& status);
  // Runs the interceptors' OnStart. False: the call is to be answered with `ended`.
  bool Intercept(const Interceptors& interceptors, const MethodInfo* method, absl::Status& ended);
  // Reads the extra part of the request.
  absl::Status ReadExtra();
  ServerCallExtras& extras() {
    if (extras_ == nullptr) extras_ = MakePooled<ServerCallExtras>();
    return *extras_;
  }
  StreamRef stream() const;

  AnswerSide* side_;
  const Limits* limits_;
  std::shared_ptr<void> keep_side_alive_;  // set while asynchronous
  ServerContext context_{this};
  transport::IncomingMessage request_;
  transport::OutgoingMessage response_;
  CalleeStream* stream_ = nullptr;  // one reference; nullptr: the call is unary
  Body body_;
  Deadline deadline_;
  std::shared_ptr<CallScope> scope_;    // AnswerSide's, under its mutex; nullptr until asked for
  PooledPtr<ServerCallExtras> extras_;  // nullptr as long as the call has none
  std::atomic<bool> cancelled_{false};
  // Whether Share was called, as by Defer: then the handler's return and the DeferredCall both hold
  // a reference, and the first answer counts.
  bool shared_ = false;
  bool runs_once_ = false;  // SavedAnswers knows it; set before the handler runs
  std::atomic<bool> answered_{false};
  std::atomic<int> references_{1};
};

}  // namespace mi7
