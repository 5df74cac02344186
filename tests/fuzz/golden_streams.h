#pragma once

// Sound byte streams of a peer, one for every kind of message: where fuzzing and the tests of
// broken frames start from.

#include <cstdint>
#include <string>
#include <vector>

namespace mi7::fuzz {

struct GoldenStream {
  std::string name;
  std::vector<uint8_t> bytes;
  size_t message_count;  // after the Hello
};

// The same every time.
std::vector<GoldenStream> GoldenStreams();

}  // namespace mi7::fuzz
