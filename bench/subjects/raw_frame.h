#pragma once

// The frame of the raw subjects: a 4-byte little-endian length of the whole frame, a 4-byte
// sequence number, and filling. The least that any framed protocol has to do on either side.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mi7::bench {

struct RawFrameHead {
  uint32_t length_bytes;  // of the whole frame, this included
  uint32_t sequence;
};
static_assert(sizeof(RawFrameHead) == 8);

inline constexpr size_t kRawFrameMin = sizeof(RawFrameHead);
inline constexpr size_t kRawFrameMax = size_t{32} << 20;

inline RawFrameHead LoadHead(const char* frame) {
  RawFrameHead head;
  std::memcpy(&head, frame, sizeof(head));
  return head;
}

inline void StoreHead(char* frame, RawFrameHead head) { std::memcpy(frame, &head, sizeof(head)); }

}  // namespace mi7::bench
