// Fuzz target: a message whose header is sound: segment table, Cap'n Proto pointers, extra part.
//
// Input: a byte for the type, a byte for the code, a byte for the extra part's size in words, one
// unused byte; then extra part and body, whose last incomplete word is dropped.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "tests/fuzz/receive_stream.h"

namespace mi7::fuzz {
namespace {

class NoBacking final : public transport::Backing {
 public:
  ~NoBacking() { MI7_CHECK(references == 0, "every reference is given back, once"); }
  void Release(uint64_t) override { --references; }
  int references = 1;
};

void Run(std::span<const uint8_t> input) {
  if (input.size() < 4) return;
  const std::span<const uint8_t> rest = input.subspan(4);
  // Memory of exactly this size, so that a read past its end is seen.
  std::vector<uint64_t> words(rest.size() / 8);
  if (!words.empty()) std::memcpy(words.data(), rest.data(), words.size() * 8);
  words.shrink_to_fit();

  constexpr transport::FrameType kTypes[] = {
      transport::FrameType::kReturn, transport::FrameType::kCall, transport::FrameType::kHello,
      transport::FrameType::kClose};
  transport::FrameHeader header;
  header.type = kTypes[input[0] % 4];
  if (header.type == transport::FrameType::kCall) header.target = transport::TargetKind::kService;
  if (header.type != transport::FrameType::kHello) {
    header.code = input[1] % 17;
    header.extra_size = 8 * static_cast<uint32_t>(std::min<size_t>(input[2], words.size()));
  }
  const bool has_no_body = header.type == transport::FrameType::kClose ||
                           (header.type == transport::FrameType::kReturn && header.code != 0);
  if (has_no_body) words.resize(header.extra_size / 8);
  header.size = static_cast<uint32_t>(transport::kFrameHeaderBytes + words.size() * 8);
  Limits limits;
  // What is read is also copied and printed, which costs much more a word than reading.
  limits.traversal_words_extra = 1024;
  limits.segments_max = 64;
  MI7_CHECK(CheckFrameHeader(header, limits).ok(), "this target makes sound headers");

  NoBacking backing;
  const absl::StatusOr<transport::IncomingMessage> message =
      ParseMessage(header, std::as_bytes(std::span(words)), &backing, 0, limits);
  if (!message.ok()) {
    MI7_CHECK(absl::IsInvalidArgument(message.status()), "a malformed message is the peer's fault");
    return;
  }
  size_t bytes = message->extra().size();
  for (const transport::IncomingMessage::Segment& segment : message->segments()) {
    bytes += segment.size() * 8;
  }
  MI7_CHECK(bytes <= words.size() * 8, "parts of a message lie inside it");
  ReadWhole(*message, limits);
}

}  // namespace
}  // namespace mi7::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mi7::fuzz::Run({data, size});
  return 0;
}
