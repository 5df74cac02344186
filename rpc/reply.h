#pragma once

// Reply: what a handler returns. One method signature, three styles:
//
//   // Inline: answer now. Allocates nothing.
//   mi7::Reply Add(mi7::ServerContext& context, AddParams::Reader params,
//                  AddResults::Builder results) override {
//     results.setSum(params.getA() + params.getB());
//     return absl::OkStatus();
//   }
//
//   // Deferred: answer later, from any thread.
//   mi7::Reply Add(mi7::ServerContext& context, ...) override {
//     queue_.push_back([later = context.Defer(), params, results]() mutable {
//       results.setSum(params.getA() + params.getB());
//       later.Finish(absl::OkStatus());
//     });
//     return mi7::Reply::Later();
//   }
//
//   // Coroutine: await other calls.
//   mi7::Reply Add(mi7::ServerContext& context, ...) override {
//     auto request = backend_.Add();
//     auto response = co_await request.Send();
//     if (!response.ok()) co_return response.status();
//     results.setSum(response->getSum());
//     co_return absl::OkStatus();
//   }
//   // With `co_await context.StopWhenCancelled();` at its beginning it goes no further than its
//   // caller waits.
//
// `params`, `results` and the context stay valid until the call is answered. A getter of malformed
// `params` throws kj::Exception, which mi7 turns into INVALID_ARGUMENT in a handler and in a
// coroutine; on a thread of your own, catch it yourself, or read the parameters before you defer.

#include <atomic>
#include <coroutine>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "rpc/coroutine_stop.h"

namespace mi7 {

class ServerCall;

namespace reply_internal {

// What co_await would ask of `awaitable`; itself when that is an awaiter.
template <typename A>
decltype(auto) AwaiterOf(A&& awaitable) {
  if constexpr (requires { std::forward<A>(awaitable).operator co_await(); }) {
    return std::forward<A>(awaitable).operator co_await();
  } else if constexpr (requires { operator co_await(std::forward<A>(awaitable)); }) {
    return operator co_await(std::forward<A>(awaitable));
  } else {
    return std::forward<A>(awaitable);
  }
}

}  // namespace reply_internal

class [[nodiscard]] Reply {
 public:
  class promise_type;

  // UNIMPLEMENTED: what a mock without an action answers.
  Reply() : Reply(absl::UnimplementedError("the handler has no answer")) {}
  // Answers now with `status`; OK sends the results.
  Reply(absl::Status status) : kind_(Kind::kNow), status_(std::move(status)) {}  // NOLINT: implicit
  // The call was deferred (ServerContext::Defer) and is answered through the DeferredCall.
  static Reply Later() { return Reply(Kind::kLater); }

  Reply(Reply&& other) noexcept
      : kind_(std::exchange(other.kind_, Kind::kLater)),
        status_(std::move(other.status_)),
        coroutine_(std::exchange(other.coroutine_, nullptr)) {}
  Reply& operator=(Reply&&) = delete;
  // A coroutine's Reply that nobody took (a handler called another handler and dropped its Reply)
  // leaves the coroutine running until it ends by itself.
  ~Reply();

  // For the runtime: hands the reply to `call`, which is answered now or when the coroutine ends.
  // `call.PrepareAsync()` is called before a coroutine that is still running is attached.
  void Deliver(ServerCall& call) &&;

 private:
  enum class Kind { kNow, kLater, kCoroutine };
  explicit Reply(Kind kind) : kind_(kind) {}
  explicit Reply(std::coroutine_handle<promise_type> coroutine)
      : kind_(Kind::kCoroutine), coroutine_(coroutine) {}

  Kind kind_;
  absl::Status status_;
  std::coroutine_handle<promise_type> coroutine_;
};

// The promise of a coroutine handler.
//
// The coroutine may end on another thread while its handler's caller still has the Reply in hand,
// so both meet in `stage_`: whoever comes second answers the call and destroys the frame.
// Memory ordering: the exchange is acq_rel, so the second comer sees the first one's writes (the
// status, or the call).
class Reply::promise_type {
 public:
  Reply get_return_object() {
    return Reply(std::coroutine_handle<promise_type>::from_promise(*this));
  }
  std::suspend_never initial_suspend() noexcept { return {}; }

  struct FinalAwaiter {
    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<promise_type> coroutine) noexcept;
    void await_resume() noexcept {}
  };
  FinalAwaiter final_suspend() noexcept { return {}; }

  void return_value(absl::Status status) { status_ = std::move(status); }
  void unhandled_exception();

  // co_await context.StopWhenCancelled()
  std::suspend_never await_transform(CoroutineStop stop) {
    stop_in_ = std::move(stop.scope);
    return {};
  }
  // Any other co_await: as it is, except that a coroutine that is to stop goes no further.
  template <typename A>
  auto await_transform(A&& awaitable) {
    using Awaiter = decltype(reply_internal::AwaiterOf(std::forward<A>(awaitable)));
    return Stopping<Awaiter>{reply_internal::AwaiterOf(std::forward<A>(awaitable)), this};
  }

 private:
  friend class Reply;

  template <typename Awaiter>
  struct Stopping {
    Awaiter awaiter;  // or a reference to one, which is there until co_await is over
    promise_type* promise;

    bool await_ready() { return awaiter.await_ready(); }
    // Not through `this` afterwards: the coroutine may have gone on, and have ended.
    auto await_suspend(std::coroutine_handle<promise_type> coroutine) {
      return awaiter.await_suspend(coroutine);
    }
    decltype(auto) await_resume() {
      if (promise->stop_in_ != nullptr && promise->is_over()) [[unlikely]] {
        // What it waited for may have to be given back.
        if constexpr (requires { awaiter.ResumeToStop(); }) {
          awaiter.ResumeToStop();
        } else {
          static_cast<void>(awaiter.await_resume());
        }
        promise->Stop();
      }
      return awaiter.await_resume();
    }
  };

  // Whether the caller has given up.
  bool is_over() const;
  // Throws what ends the coroutine.
  [[noreturn]] void Stop() const;

  enum Stage { kRunning, kAttached, kEnded };
  std::atomic<Stage> stage_{kRunning};
  ServerCall* call_ = nullptr;          // nullptr when attached: nobody wants the answer
  std::shared_ptr<CallScope> stop_in_;  // nullptr: it goes on whatever its caller does
  absl::Status status_;
};

}  // namespace mi7
