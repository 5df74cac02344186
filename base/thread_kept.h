#pragma once

// ThreadKept: what each thread keeps for itself, to be quick, and can do without.
//
// A thread_local object with a destructor must not be touched after that has run, while others may
// call still: thread_local objects that were made earlier, and on the main thread all static
// objects. This one says when it is gone.

#include <cstddef>
#include <cstdint>
#include <new>

namespace mi7 {

// One T a thread, for each Tag. T is made without arguments when it is first asked for.
template <typename T, typename Tag = T>
class ThreadKept {
 public:
  // The calling thread's; nullptr when the thread ends and it is gone. Costs a look at a
  // thread_local variable that has neither constructor nor destructor.
  static T* Get() {
    if (local_.state == State::kMade) [[likely]]
      return local_.get();
    return Make();
  }

 private:
  enum class State : uint8_t { kUnused, kMade, kGone };
  struct Local {
    T* get() { return std::launder(reinterpret_cast<T*>(memory)); }
    State state;
    alignas(T) std::byte memory[sizeof(T)];
  };
  struct AtExit {
    ~AtExit() {
      local_.state = State::kGone;  // first: T's destructor may come back here
      local_.get()->~T();
    }
  };

  [[gnu::noinline]] static T* Make() {
    if (local_.state == State::kGone) return nullptr;
    new (local_.memory) T();
    local_.state = State::kMade;
    static thread_local AtExit at_exit;
    static_cast<void>(at_exit);
    return local_.get();
  }

  static inline constinit thread_local Local local_{};
};

}  // namespace mi7
