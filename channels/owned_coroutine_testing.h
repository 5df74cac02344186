#pragma once

#include <coroutine>
#include <exception>

namespace mi7::channels {

// A coroutine that its owner destroys, wherever it waits. It runs at once until it first does.
struct Owned {
  struct promise_type {
    Owned get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
  std::coroutine_handle<promise_type> coroutine;
};

}  // namespace mi7::channels
