#pragma once

// SteppedAtomic: in the place of std::atomic where an Explorer decides who takes the next step.
// Each operation is one step. Sequentially consistent: the memory orders have arguments of their
// own (protocol.h).

#include <atomic>
#include <cstdint>

namespace mi7::slot_pipe_internal {

// Called before each operation. Returns when it is its caller's turn; may not return at all.
void Step();

// As much of std::atomic as the slot pipe uses. Its memory is that of a T; zero-filled is 0.
template <typename T>
class SteppedAtomic {
 public:
  static constexpr bool is_always_lock_free = true;

  T load(std::memory_order) const {
    Step();
    return value_;
  }
  void store(T value, std::memory_order) {
    Step();
    value_ = value;
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order, std::memory_order) {
    Step();
    if (value_ == expected) {
      value_ = desired;
      return true;
    }
    expected = value_;
    return false;
  }
  T fetch_or(T bits, std::memory_order) {
    Step();
    const T before = value_;
    value_ = before | bits;
    return before;
  }
  T fetch_and(T bits, std::memory_order) {
    Step();
    const T before = value_;
    value_ = before & bits;
    return before;
  }
  T fetch_add(T more, std::memory_order) {
    Step();
    const T before = value_;
    value_ = before + more;
    return before;
  }

 private:
  T value_ = 0;
};

}  // namespace mi7::slot_pipe_internal
