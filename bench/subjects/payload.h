#pragma once

// What a payload is filled with and how it is read, the same for every subject: each word of 8
// bytes is written once and read once.

#include <cstddef>
#include <cstdint>
#include <span>

namespace mi7::bench {

inline void FillPayload(std::span<uint64_t> words, uint64_t value) {
  for (uint64_t& word : words) word = value;
}

// Four sums at a time, so that memory and not the addition is what takes time.
inline uint64_t SumPayload(std::span<const uint64_t> words) {
  uint64_t sums[4] = {};
  size_t i = 0;
  for (; i + 4 <= words.size(); i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) sums[lane] += words[i + lane];
  }
  for (; i < words.size(); ++i) sums[0] += words[i];
  return sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace mi7::bench
