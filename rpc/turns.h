#pragma once

// Turns: the order of the callbacks on one thread.
//
// A callback that is due at once (its call has failed already, the message is there already) would
// run inside whatever callback asked for it, and a loop of such callbacks would recurse without
// bound. So it runs on the same thread after that one has returned.

namespace mi7 {

// A callback that waits for its turn; part of what it is about, which it keeps alive until it ran.
struct Turn {
  void (*run)(Turn& self) = nullptr;  // once; `self` may be gone when it returns
  Turn* next = nullptr;
};

// Of the calling thread. Callbacks throw nothing.
class Turns {
 public:
  // Marks the thread as inside a callback. The outermost one then runs those whose turn has come.
  class Inside {
   public:
    Inside() : outermost_(!state_.inside) { state_.inside = true; }
    ~Inside() {
      if (outermost_) RunWaiting();
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;

   private:
    const bool outermost_;
  };

  // While the thread waits inside a callback: callbacks that run meanwhile must not wait for the
  // one that the thread is inside, and those that do so already, for which it may wait, run now.
  class Waiting {
   public:
    Waiting() : inside_(state_.inside) { RunWaiting(); }
    ~Waiting() { state_.inside = inside_; }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;

   private:
    const bool inside_;
  };

  // Runs `turn` now, or, inside a callback, after it.
  static void Run(Turn& turn) {
    if (!state_.inside) {
      const Inside inside;
      turn.run(turn);
      return;
    }
    turn.next = nullptr;
    (state_.first == nullptr ? state_.first : state_.last->next) = &turn;
    state_.last = &turn;
  }

 private:
  struct State {
    bool inside;
    Turn* first;
    Turn* last;
  };
  static void RunWaiting() {
    while (state_.first != nullptr) {
      Turn& turn = *state_.first;
      state_.first = turn.next;
      turn.run(turn);
    }
    state_.inside = false;
  }
  static inline constinit thread_local State state_{};
};

}  // namespace mi7
