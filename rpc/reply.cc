#include "rpc/reply.h"

#include "rpc/call_scope.h"
#include "rpc/message_reader.h"
#include "rpc/server_call.h"

namespace mi7 {

namespace {

// Ends a coroutine: what unwinds its frame, and is not for anybody to catch.
struct CoroutineStopped {
  absl::Status why;
};

}  // namespace

bool Reply::promise_type::is_over() const {
  return stop_in_->cancelled() || stop_in_->deadline().passed();
}

void Reply::promise_type::Stop() const {
  throw CoroutineStopped{stop_in_->deadline().passed()
                             ? absl::DeadlineExceededError("the caller's deadline has passed")
                             : absl::CancelledError("the caller has given up")};
}

void Reply::promise_type::unhandled_exception() {
  try {
    throw;
  } catch (CoroutineStopped& stopped) {
    status_ = std::move(stopped.why);
    return;
  } catch (...) {
  }
  status_ = StatusOfException(absl::StatusCode::kInvalidArgument, "handler");
}

void Reply::promise_type::FinalAwaiter::await_suspend(
    std::coroutine_handle<promise_type> coroutine) noexcept {
  promise_type& promise = coroutine.promise();
  if (promise.stage_.exchange(kEnded, std::memory_order_acq_rel) != kAttached) {
    return;  // Deliver (or ~Reply) comes second and finds the status
  }
  ServerCall* call = promise.call_;
  absl::Status status = std::move(promise.status_);
  coroutine.destroy();
  if (call != nullptr) call->Answer(std::move(status));
}

void Reply::Deliver(ServerCall& call) && {
  switch (kind_) {
    case Kind::kNow:
      call.Answer(std::move(status_));
      return;
    case Kind::kLater:
      call.ReturnedLater();
      return;
    case Kind::kCoroutine: {
      const std::coroutine_handle<promise_type> coroutine = std::exchange(coroutine_, nullptr);
      promise_type& promise = coroutine.promise();
      if (promise.stage_.load(std::memory_order_acquire) != promise_type::kEnded) {
        call.PrepareAsync();
        promise.call_ = &call;
        if (promise.stage_.exchange(promise_type::kAttached, std::memory_order_acq_rel) !=
            promise_type::kEnded) {
          return;  // the coroutine's end answers
        }
      }
      absl::Status status = std::move(promise.status_);
      coroutine.destroy();
      call.Answer(std::move(status));
      return;
    }
  }
}

Reply::~Reply() {
  if (!coroutine_) return;
  promise_type& promise = coroutine_.promise();
  if (promise.stage_.exchange(promise_type::kAttached, std::memory_order_acq_rel) ==
      promise_type::kEnded) {
    coroutine_.destroy();
  }
}

}  // namespace mi7
