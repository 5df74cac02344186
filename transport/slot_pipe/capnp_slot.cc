#include "transport/slot_pipe/capnp_slot.h"

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "transport/slot_pipe/slot_pipe_error.h"

namespace mi7 {

using slot_pipe_internal::WithError;
namespace {

// One segment: its count less one, and its size in words.
struct Framing {
  uint32_t segments_less_one;
  uint32_t words;
};
static_assert(sizeof(Framing) == sizeof(capnp::word));

// Holds the one segment of a reader.
class OneSegmentReader : public capnp::MessageReader {
 public:
  OneSegmentReader(kj::ArrayPtr<const capnp::word> segment, capnp::ReaderOptions limits)
      : MessageReader(limits), segment_(segment) {}
  kj::ArrayPtr<const capnp::word> getSegment(capnp::uint id) override {
    return id == 0 ? segment_ : nullptr;
  }

 private:
  const kj::ArrayPtr<const capnp::word> segment_;
};

}  // namespace

// The slot is the first segment. What does not fit goes to the heap, and makes Send fail.
class SlotMessageBuilder::Arena : public capnp::MessageBuilder {
 public:
  explicit Arena(kj::ArrayPtr<capnp::word> slot) : slot_(slot) {}

  kj::ArrayPtr<capnp::word> allocateSegment(capnp::uint minimum_words) override {
    if (!used_ && minimum_words <= slot_.size()) {
      used_ = true;
      return slot_;
    }
    overflown_ = true;
    used_ = true;
    heap_.push_back(std::make_unique<std::vector<capnp::word>>(minimum_words));
    return kj::arrayPtr(heap_.back()->data(), minimum_words);
  }
  bool overflown() const { return overflown_; }

 private:
  const kj::ArrayPtr<capnp::word> slot_;
  bool used_ = false;
  bool overflown_ = false;
  std::vector<std::unique_ptr<std::vector<capnp::word>>> heap_;
};

SlotMessageBuilder::SlotMessageBuilder(WriteSlot slot) : slot_(std::move(slot)) {
  const absl::Span<std::byte> bytes = slot_.span();
  const size_t words = bytes.size() / sizeof(capnp::word);
  if (words > 0) std::memset(bytes.data(), 0, bytes.size());
  auto* const first = reinterpret_cast<capnp::word*>(bytes.data());
  arena_ = std::make_unique<Arena>(words > 1 ? kj::arrayPtr(first + 1, words - 1) : nullptr);
}

SlotMessageBuilder::~SlotMessageBuilder() = default;

capnp::MessageBuilder& SlotMessageBuilder::message() { return *arena_; }

absl::Status SlotMessageBuilder::Send() {
  if (!slot_) {
    return WithError(SlotPipeError::kWrongSlotState,
                     absl::FailedPreconditionError("there is no slot to send in this builder"));
  }
  const auto segments = arena_->getSegmentsForOutput();
  size_t words = 0;
  for (const auto& segment : segments) words += segment.size();
  if (arena_->overflown() || segments.size() != 1) {
    return WithError(SlotPipeError::kMessageTooLarge,
                     absl::InvalidArgumentError(
                         absl::StrCat("a message of ", (words + 1) * sizeof(capnp::word),
                                      " bytes does not fit into a slot of ", slot_.span().size())));
  }
  const Framing framing{0, static_cast<uint32_t>(words)};
  std::memcpy(slot_.data(), &framing, sizeof(framing));
  return slot_.Send((words + 1) * sizeof(capnp::word), PayloadKind::kCapnp);
}

absl::StatusOr<SlotMessageReader> SlotMessageReader::Open(const ReadSlot& slot) {
  if (slot.kind() != PayloadKind::kCapnp) {
    return WithError(SlotPipeError::kNotCapnp,
                     absl::InvalidArgumentError(absl::StrCat("the message in slot ", slot.index(),
                                                             " is bytes, no Cap'n Proto message")));
  }
  Framing framing{1, 0};  // read once
  if (slot.size() >= sizeof(framing)) std::memcpy(&framing, slot.data(), sizeof(framing));
  if (framing.segments_less_one != 0 ||
      (uint64_t{framing.words} + 1) * sizeof(capnp::word) != slot.size()) {
    return WithError(SlotPipeError::kNotCapnp,
                     absl::InvalidArgumentError(absl::StrCat(
                         "the Cap'n Proto message in slot ", slot.index(), " is malformed: ",
                         slot.size(), " bytes with a segment of ", framing.words, " words")));
  }
  capnp::ReaderOptions options;
  options.traversalLimitInWords = uint64_t{8} * framing.words + (1u << 20);
  const auto* const first = reinterpret_cast<const capnp::word*>(slot.data());
  return SlotMessageReader(
      std::make_unique<OneSegmentReader>(kj::arrayPtr(first + 1, size_t{framing.words}), options));
}

}  // namespace mi7
