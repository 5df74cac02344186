// Fuzz target: the bytes of a peer, from its first one on. However they are cut into pieces, the
// same must come out.
//
// Input: one byte that says how to cut, then the stream. When its highest bit is set the stream
// begins after the opening and the Hello, which are hard to guess.

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "tests/fuzz/golden_streams.h"
#include "tests/fuzz/receive_stream.h"

namespace mi7::fuzz {
namespace {

void Run(std::span<const uint8_t> input) {
  if (input.empty()) return;
  const uint8_t how = input[0];
  static const std::vector<uint8_t> greeting = GoldenStreams()[0].bytes;
  std::vector<uint8_t> stream;
  if ((how & 0x80) != 0) stream = greeting;
  stream.insert(stream.end(), input.begin() + 1, input.end());

  Limits limits;
  // What is read is also copied and printed, which costs much more a word than reading.
  limits.traversal_words_extra = 1024;
  limits.message_bytes_max = 256u << 10;
  limits.extra_bytes_max = 4096;
  limits.segments_max = 64;
  const std::vector<Outcome> whole =
      ReceiveStream(stream, limits, [](size_t left) { return left; });
  uint32_t random = how;
  const std::vector<Outcome> cut = ReceiveStream(stream, limits, [&](size_t) {
    random = random * 1664525 + 1013904223;
    const uint32_t kind = (random >> 10) % 8;
    return kind == 0 ? 1 + (random >> 20) : 1 + (random >> 20) % (kind * kind * 8);
  });
  MI7_CHECK(whole == cut, "what is received does not depend on how it is cut into pieces");
}

}  // namespace
}  // namespace mi7::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mi7::fuzz::Run({data, size});
  return 0;
}
