#pragma once

// SteppedAtomic: in the place of std::atomic where an Explorer decides who takes the next step.
// Each operation is one step. Sequentially consistent; or, where the scenario is about memory
// orders, no stronger than the order of each operation makes it (weak_memory.h).

#include <atomic>
#include <cstdint>

namespace mi7::slot_pipe_internal {

// Called before each operation. Returns when it is its caller's turn; may not return at all.
void Step();

// Whether memory orders count now. Then these decide what is read, and note what is written after
// `last`; what is in the memory is always the last write.
bool MemoryIsWeak();
uint64_t WeakRead(const void* location, uint64_t last, std::memory_order order);
void WeakReadOfLast(const void* location, uint64_t last, std::memory_order order);
void WeakWrite(const void* location, uint64_t last, uint64_t value, bool reads,
               std::memory_order order);

// As much of std::atomic as the slot pipe uses. Its memory is that of a T; zero-filled is 0.
template <typename T>
class SteppedAtomic {
 public:
  static constexpr bool is_always_lock_free = true;

  T load(std::memory_order order) const {
    Step();
    return Read(order);
  }
  void store(T value, std::memory_order order) {
    Step();
    Write(value, false, order);
  }
  bool compare_exchange_strong(T& expected, T desired, std::memory_order order,
                               std::memory_order order_of_failure) {
    Step();
    if (value_ == expected) {
      Write(desired, true, order);
      return true;
    }
    if (MemoryIsWeak()) WeakReadOfLast(&value_, value_, order_of_failure);
    expected = value_;
    return false;
  }
  T fetch_or(T bits, std::memory_order order) {
    Step();
    return Swap(value_ | bits, order);
  }
  T fetch_and(T bits, std::memory_order order) {
    Step();
    return Swap(value_ & bits, order);
  }
  T fetch_add(T more, std::memory_order order) {
    Step();
    return Swap(value_ + more, order);
  }
  // For a system call, which looks at the word under a lock of its own.
  T load_last() const {
    Step();
    if (MemoryIsWeak()) WeakReadOfLast(&value_, value_, std::memory_order_seq_cst);
    return value_;
  }

  // Of memory that is no atomic word, such as a payload: with what comes before or after it.
  T plain_load() const { return Read(std::memory_order_relaxed); }
  void plain_store(T value) { Write(value, false, std::memory_order_relaxed); }

 private:
  T Read(std::memory_order order) const {
    return MemoryIsWeak() ? static_cast<T>(WeakRead(&value_, value_, order)) : value_;
  }
  T Swap(T value, std::memory_order order) {
    const T before = value_;
    Write(value, true, order);
    return before;
  }
  void Write(T value, bool reads, std::memory_order order) {
    if (MemoryIsWeak()) WeakWrite(&value_, value_, value, reads, order);
    value_ = value;
  }

  T value_ = 0;
};

}  // namespace mi7::slot_pipe_internal
