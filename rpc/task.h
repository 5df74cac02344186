#pragma once

// Task<T>: a coroutine that computes a T, for client programs that make calls with co_await.
//
//   mi7::Task<absl::Status> Work(CalculatorStub calculator) {
//     auto request = calculator.Add();
//     ...
//     auto response = co_await request.Send();
//     co_return response.status();
//   }
//   absl::Status status = mi7::BlockOn(Work(calculator));
//
// Parameters of a coroutine are copied into it when taken by value; references must outlive it.

#include <coroutine>
#include <exception>
#include <optional>
#include <utility>

#include "transport/completion.h"

namespace mi7 {

// Starts when it is awaited or passed to BlockOn, once. Destroying one that was started and has
// not ended is a mistake of the owner: keep it until then. An exception that leaves the coroutine
// is rethrown to whoever awaits it.
template <typename T>
class [[nodiscard]] Task {
 public:
  class promise_type {
   public:
    Task get_return_object() {
      return Task(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    struct FinalAwaiter {
      bool await_ready() noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> self) noexcept {
        return self.promise().awaiting_;
      }
      void await_resume() noexcept {}
    };
    FinalAwaiter final_suspend() noexcept { return {}; }
    void return_value(T value) { value_.emplace(std::move(value)); }
    void unhandled_exception() { exception_ = std::current_exception(); }

   private:
    friend class Task;
    std::coroutine_handle<> awaiting_ = std::noop_coroutine();
    std::optional<T> value_;
    std::exception_ptr exception_;
  };

  Task(Task&& other) noexcept : coroutine_(std::exchange(other.coroutine_, nullptr)) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(coroutine_, other.coroutine_);
    return *this;
  }
  ~Task() {
    if (coroutine_) coroutine_.destroy();
  }

  auto operator co_await() && {
    struct Awaiter {
      std::coroutine_handle<promise_type> coroutine;
      bool await_ready() const noexcept { return false; }
      std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
        coroutine.promise().awaiting_ = awaiting;
        return coroutine;
      }
      T await_resume() {
        promise_type& promise = coroutine.promise();
        if (promise.exception_) std::rethrow_exception(promise.exception_);
        return *std::move(promise.value_);
      }
    };
    return Awaiter{coroutine_};
  }

 private:
  explicit Task(std::coroutine_handle<promise_type> coroutine) : coroutine_(coroutine) {}
  std::coroutine_handle<promise_type> coroutine_;
};

namespace task_internal {

// Runs at once and destroys itself at its end.
struct Runner {
  struct promise_type {
    Runner get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }  // Run catches everything
  };
};

template <typename T>
Runner Run(Task<T> task, std::optional<T>& value, std::exception_ptr& exception,
           transport::Completion& done) {
  try {
    // Destroyed, with the coroutine's parameters, before anybody is told.
    Task<T> own = std::move(task);
    value.emplace(co_await std::move(own));
  } catch (...) {
    exception = std::current_exception();
  }
  done.Complete();
}

}  // namespace task_internal

// Runs `task` and blocks this thread until it has ended. Not inside callbacks or handlers.
template <typename T>
T BlockOn(Task<T> task) {
  std::optional<T> value;
  std::exception_ptr exception;
  transport::Completion done;
  task_internal::Run<T>(std::move(task), value, exception, done);
  while (done.Sleep(Deadline::Infinite()) != transport::Completion::Woken::kDone) {
  }
  if (exception) std::rethrow_exception(exception);
  return *std::move(value);
}

}  // namespace mi7
