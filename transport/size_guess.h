#pragma once

// SizeGuess: whether messages of one kind are small, or what they have besides large parts that are
// built elsewhere (segments after the first), learned from those that were sent before. A transport
// may have a cheaper way for small ones (shared memory: in the lines that signal them), but where a
// message is built is decided before its size is known. A wrong guess costs time: the message is
// copied once.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace mi7::transport {

// Thread-safe. Memory ordering: relaxed; it is a guess and orders nothing.
class SizeGuess {
 public:
  // A body up to this is small.
  static constexpr size_t kSmallBytes = 192;
  // What to reserve for a body that is not, or of which nothing is known.
  static constexpr size_t kOtherBytes = 512;

  // The guess for messages of the kind that `key` stands for. Kinds whose keys collide share one;
  // it lives for ever.
  static SizeGuess& For(uint64_t key) {
    return table_[((key * 0x9e37'79b9'7f4a'7c15) >> 32) % table_.size()];
  }

  // What to reserve for the body of the next one.
  size_t bytes() const {
    return streak_.load(std::memory_order_relaxed) == 0 ? kSmallBytes : kOtherBytes;
  }
  // One was sent, with a body of `bytes`. One large message is believed at once, as it is the
  // costlier mistake; small ones when several came in a row.
  void Learn(size_t bytes) {
    const uint8_t streak = streak_.load(std::memory_order_relaxed);
    const uint8_t next = bytes > kSmallBytes ? kSmallOnesToForget
                                             : static_cast<uint8_t>(streak - (streak != 0 ? 1 : 0));
    // Written only when it changes, so that threads can share it.
    if (next != streak) [[unlikely]]
      streak_.store(next, std::memory_order_relaxed);
  }

 private:
  static constexpr uint8_t kSmallOnesToForget = 16;
  static std::array<SizeGuess, 1024> table_;

  std::atomic<uint8_t> streak_{0};  // small ones that are needed until small is believed
};

inline constinit std::array<SizeGuess, 1024> SizeGuess::table_{};

}  // namespace mi7::transport
