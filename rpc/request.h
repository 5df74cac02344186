#pragma once

// The typed handles of one call, from the building of its request to the reading of its response.
//
//   auto request = calculator.Add();                 // a builder, in the transport's own memory
//   request->setA(2);
//   request->setB(3);
//
//   auto response = request.Send().Wait();           // blocking, or
//   auto response = co_await request.Send();         // in a coroutine, or
//   request.Send().Then([](auto response) { ... });  // as a callback
//
//   if (!response.ok()) return response.status();
//   Use(response->getSum());
//
// Handles are move-only and used by one thread at a time. Each keeps the channel alive.

#include <coroutine>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "rpc/client_call.h"

namespace mi7 {

// Owning reference to a ClientCall.
class ClientCallRef {
 public:
  explicit ClientCallRef(ClientCall* call) : call_(call) {}
  ClientCallRef(ClientCallRef&& other) noexcept : call_(std::exchange(other.call_, nullptr)) {}
  ClientCallRef& operator=(ClientCallRef&& other) noexcept {
    std::swap(call_, other.call_);
    return *this;
  }
  ~ClientCallRef() {
    if (call_ != nullptr) call_->Unref();
  }
  // A further reference.
  ClientCallRef Share() const {
    call_->Ref();
    return ClientCallRef(call_);
  }
  ClientCall* release() { return std::exchange(call_, nullptr); }
  ClientCall* get() const { return call_; }
  ClientCall* operator->() const { return call_; }
  explicit operator bool() const { return call_ != nullptr; }

 private:
  ClientCall* call_;
};

// The results of a call, read in place where the transport received them. Use it like the
// struct's Reader; it must not outlive the Response. Getters of a malformed part of the message
// throw kj::Exception, as everywhere in Cap'n Proto; the root is checked before you get it.
template <typename R>
class Response : public R::Reader {
 public:
  Response(Response&&) noexcept = default;
  Response& operator=(Response&&) noexcept = default;

 private:
  template <typename>
  friend class PendingCall;
  Response(ClientCallRef call, typename R::Reader reader)
      : R::Reader(reader), call_(std::move(call)) {}
  ClientCallRef call_;
};

// Cancels one call from anywhere, also when its PendingCall is gone because Then or a coroutine
// took it. Thread-safe; copies cancel the same call. Keeps the channel, and the response once there
// is one: drop it when the call is over.
class CallCanceller {
 public:
  CallCanceller() : call_(nullptr) {}
  explicit CallCanceller(ClientCall* call) : call_(call) { call->Ref(); }
  CallCanceller(const CallCanceller& other) : call_(other.call_.get()) {
    if (call_) call_->Ref();
  }
  CallCanceller(CallCanceller&&) noexcept = default;
  CallCanceller& operator=(CallCanceller other) noexcept {
    call_ = std::move(other.call_);
    return *this;
  }

  // Ends the call with CANCELLED unless it is done already; the server is told. The call's callback
  // runs, or its coroutine resumes, right here. Without effect when empty.
  void Cancel() const {
    if (call_) call_->Cancel();
  }

 private:
  ClientCallRef call_;
};

// A call that was sent. Dropping it without Wait, Then or co_await cancels the call; so does
// destroying a coroutine that awaits it.
template <typename R>
class [[nodiscard]] PendingCall {
 public:
  using Result = absl::StatusOr<Response<R>>;

  explicit PendingCall(ClientCallRef call) : call_(std::move(call)) {}
  PendingCall(PendingCall&&) noexcept = default;
  PendingCall& operator=(PendingCall&&) noexcept = default;
  ~PendingCall() {
    if (call_) call_->Cancel();
  }

  // Blocks until the call is done or its deadline has passed. The thread drives the connection
  // meanwhile when nobody else does, and then runs the callbacks of other calls that complete: hold
  // no lock that a callback takes. Once. Not inside a callback or handler of a connection of the
  // same channel, which may be the one that brings the answer (FAILED_PRECONDITION).
  Result Wait() {
    MI7_CHECK(call_, "PendingCall: Wait after Wait, Then, co_await or a move");
    call_->Wait();
    return Take(std::move(call_));
  }

  // Calls `callback(absl::StatusOr<Response<R>>)` when the call is done, exactly once: on the
  // thread that drives the connection (the channel's event loop, or one that is in Wait), or
  // right here when the call is done already, or, right here being inside another callback, on this
  // thread after that one has returned. It must not block. Captures up to 56 bytes cost no
  // allocation.
  template <typename F>
  void Then(F callback) {
    MI7_CHECK(call_, "PendingCall: Then after Wait, Then, co_await or a move");
    ClientCall* const call = call_.get();
    call->OnDone([callback = std::move(callback), ref = std::move(call_)](ClientCall&) mutable {
      callback(Take(std::move(ref)));
    });
  }

  // Ends the call with CANCELLED unless it is done already; the server is told.
  // Without effect after Wait, Then or co_await: for those, take a canceller() before.
  void Cancel() {
    if (call_) call_->Cancel();
  }
  CallCanceller canceller() const {
    MI7_CHECK(call_, "PendingCall: canceller after Wait, Then, co_await or a move");
    return CallCanceller(call_.get());
  }

  struct Awaiter {
    ClientCallRef call;
    bool await_ready() const { return call->done(); }
    // Resumes on the thread that completes the call (see Then).
    bool await_suspend(std::coroutine_handle<> coroutine) {
      // Not through `this`: the coroutine may resume and end before OnDoneLater returns.
      ClientCall* const pending = call.get();
      return pending->OnDoneLater([coroutine](ClientCall&) { coroutine.resume(); });
    }
    Result await_resume() { return Take(std::move(call)); }
    // A coroutine that is destroyed while it waits must not be resumed.
    ~Awaiter() {
      if (call) call->Abandon();
    }
  };
  Awaiter operator co_await() && { return Awaiter{std::move(call_)}; }
  Awaiter operator co_await() & { return Awaiter{std::move(call_)}; }

 private:
  static Result Take(ClientCallRef call) {
    if (!call->status().ok()) return call->status();
    try {
      typename R::Reader reader = call->template Results<R>();
      return Response<R>(std::move(call), reader);
    } catch (...) {
      call->FailMalformed();
      return call->status();
    }
  }
  ClientCallRef call_;
};

// A request under construction. `request->` reaches the parameters' Builder.
template <typename P, typename R>
class [[nodiscard]] Request {
 public:
  explicit Request(ClientCallRef call)
      : call_(std::move(call)), params_(call_->request().template initRoot<P>()) {}
  Request(Request&&) noexcept = default;
  Request& operator=(Request&&) noexcept = default;

  typename P::Builder* operator->() {
    MI7_CHECK(call_, "Request: used after Send or a move");
    return &params_;
  }
  typename P::Builder& operator*() { return *operator->(); }

  // Sends the request; the Builder must not be used any more. Once. Never blocks: what goes wrong
  // is in the call's status.
  PendingCall<R> Send() {
    MI7_CHECK(call_ && !call_->started(), "Request::Send called twice or after a move");
    call_->Start();
    return PendingCall<R>(std::move(call_));
  }

 private:
  ClientCallRef call_;
  typename P::Builder params_;
};

}  // namespace mi7
