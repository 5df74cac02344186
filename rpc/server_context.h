#pragma once

// ServerContext: what a handler knows about the call it answers. DeferredCall: how it answers
// later.

#include <memory>
#include <stop_token>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/call_options.h"
#include "rpc/context_sleep.h"
#include "rpc/coroutine_stop.h"
#include "rpc/metadata.h"
#include "rpc/trace_context.h"

namespace mi7 {

class ServerCall;

// The obligation to answer one call, from any thread, exactly once. Move-only. Dropping it
// unanswered answers INTERNAL, so that no caller waits for ever; dropped while the handler still
// runs, it leaves the answer to the handler's return: an exception after Defer keeps its text.
class DeferredCall {
 public:
  DeferredCall() = default;
  DeferredCall(DeferredCall&& other) noexcept : call_(std::exchange(other.call_, nullptr)) {}
  DeferredCall& operator=(DeferredCall&& other) noexcept;
  ~DeferredCall();

  // Answers; OK sends the results. The call's params, results and context are invalid afterwards.
  // A second Finish, or one on an empty handle, does nothing.
  void Finish(absl::Status status);

 private:
  friend class ServerContext;
  explicit DeferredCall(ServerCall* call) : call_(call) {}
  void Drop();
  ServerCall* call_ = nullptr;
};

// Valid from the handler's start until the call is answered. Not thread-safe, except cancelled().
class ServerContext {
 public:
  // "tcp:127.0.0.1:40312". Allocates.
  std::string peer() const;
  // Name of the transport that carries the call: "tcp", "inproc", ...
  std::string transport() const;
  // When the caller stops waiting, in this machine's monotonic time; infinite without a deadline.
  // The caller sends the time that remains, so no two clocks are compared.
  Deadline deadline() const;
  // True once the caller has given up: it cancelled, its deadline passed, or its connection is
  // gone; or the server's Shutdown does not wait any longer. A long handler polls it. Any thread.
  // Cancellations and the connection's end are noticed by the thread that drives the connection,
  // which is the one that an inline handler, and a coroutine until it first waits, keeps busy:
  // there, only its deadline and the Shutdown's show. Work that shall end when its caller gives up
  // is deferred.
  // A call of a $Mi7.deduplicate method survives its connection: its caller may come back for the
  // answer.
  bool cancelled() const;

  // The same for those who would rather be told:
  //
  //   std::stop_callback on_cancel(context.stop_token(), [this] { queue_.WakeUp(); });
  //
  // It is called, once, on the thread that learns that the caller has given up: the one that drives
  // the connection, a timer's, or right here when that was before. It must not block. The token may
  // be kept for as long as one likes, and copied to any thread; once the call is answered it is not
  // stopped any more, unless that is happening at the same moment. Any thread.
  std::stop_token stop_token() const;

  // Options for a call that the handler makes for its caller, of which it takes what is left of the
  // time (when that is less than `options.deadline`) and the trace. It ends with CANCELLED as soon
  // as this call's caller gives up, so that a coroutine that awaits it goes on; or when this call
  // is answered before it is done.
  //
  //   auto request = backend_.Find(context.ForNestedCall());
  CallOptions ForNestedCall(CallOptions options = {}) const;

  // For coroutines, a wait that ends early when the caller gives up:
  //
  //   if (absl::Status slept = co_await context.Sleep(absl::Seconds(1)); !slept.ok()) co_return
  //   slept;
  //
  // OK, or what ended it: DEADLINE_EXCEEDED, CANCELLED. The coroutine goes on on one of the
  // server's event loops, or on the thread that learns that the caller has given up.
  ContextSleep Sleep(absl::Duration duration) const;

  // For coroutines that shall not go on in vain:
  //
  //   co_await context.StopWhenCancelled();
  //
  // From there on each co_await in the handler's own coroutine, when the caller has given up by its
  // end, does not go on but ends the coroutine: what its frame holds is destroyed, innermost first,
  // as an exception would do it, and the call is answered, DEADLINE_EXCEEDED or CANCELLED. How soon
  // it ends follows from what it awaits: at once, or when that is ready (a table in
  // docs/RETRIES.md). A handler that catches everything (`catch (...)`) is ended at its next
  // co_await. Coroutines that it awaits (Task) are not stopped: they end by themselves.
  CoroutineStop StopWhenCancelled() const;

  // Which attempt at this call it is, from 1: more when the caller has made others before.
  int attempt() const;

  // What the caller sent along (CallOptions::metadata); empty for most calls.
  const Metadata& metadata() const;
  // The trace that the call belongs to, with the caller's span; nullptr when the caller sent none
  // that is sound. ForNestedCall passes it on.
  std::shared_ptr<const TraceContext> trace() const;
  // What goes back to the caller besides the answer, whatever that is (CallOptions::received); from
  // a stream of results the initial ones go with the first message, so they are complete before it
  // is written, and later changes are lost. The
  // rules are CheckMetadata's: results whose metadata breaks them fail the call with INTERNAL; a
  // failed call's metadata is left out then, and its message says so.
  Metadata& initial_metadata();
  Metadata& trailing_metadata();

  // Takes over the duty to answer; the handler then returns Reply::Later(). At most once a call;
  // a further one gives an empty handle.
  DeferredCall Defer();

 private:
  friend class ServerCall;
  explicit ServerContext(ServerCall* call) : call_(call) {}
  ServerCall* call_;
};

}  // namespace mi7
