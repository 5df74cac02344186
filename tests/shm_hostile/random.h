#pragma once

#include <cstdint>

namespace mi7::shm_hostile {

// Marsaglia's xorshift64: fast, and the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}
  uint64_t operator()() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  uint64_t Below(uint64_t end) { return (*this)() % end; }

 private:
  uint64_t state_;
};

}  // namespace mi7::shm_hostile
