#pragma once

// DetachedTask: the type of a coroutine that nobody waits for.
//
//   mi7::DetachedTask Pump(Source& from, Sink& to) { ... co_await ... }
//   loop->Post([&] { Pump(from, to); });
//
// It runs when it is called and is gone when it ends. Whoever wants to know when that is lets it
// tell: by what it last does, or by the end of a channel that it holds (channels/channel.h). What
// its parameters refer to has to outlive it.

#include <coroutine>
#include <exception>

namespace mi7 {

// An exception that leaves the coroutine ends the program: there is nobody to catch it.
struct DetachedTask {
  struct promise_type {
    DetachedTask get_return_object() { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

}  // namespace mi7
