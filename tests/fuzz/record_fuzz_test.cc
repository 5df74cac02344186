// Fuzz target: records and slots of a peer on shared memory, whatever they say.
//
// Input: a byte of options (bit 0: trusted, bit 1: both chunks are passed, else the first), then
// records, each: a byte with its number of words, a byte with its form, the 32 bytes of its header,
// its words; and where 0xff comes instead of a number of words, what follows is the content of the
// slots of both chunks.

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "tests/fuzz/receive_stream.h"
#include "tests/shm_hostile/guard_pages.h"
#include "transport/frame.h"
#include "transport/shm/half.h"
#include "transport/shm/link.h"
#include "transport/shm/ring.h"

namespace mi7::fuzz {
namespace {

using transport::IncomingMessage;
using transport::UniqueFd;
namespace shm = transport::shm;

constexpr uint64_t kSlotBytes[2] = {4096, 16384};
constexpr uint32_t kSlots[2] = {4, 2};

shm::SharedMemory Make(uint64_t bytes, bool for_good) {
  auto memory = shm::CreateSharedMemory("fuzz", bytes, bytes, for_good);
  MI7_CHECK(memory.ok(), "shared memory is available");
  return *std::move(memory);
}

// A peer's memory and the link that reads it; made anew for every input, for a link remembers.
class Reading {
 public:
  Reading(bool trusted, std::span<const uint8_t> content, bool both) {
    static const std::shared_ptr<const transport::ShmOptions> options =
        std::make_shared<const transport::ShmOptions>();
    control_ = Make(shm::kControlBytes, true);
    auto* const control = reinterpret_cast<shm::Control*>(control_.mapping.data());
    control->geometry = {.magic = shm::kMagic,
                         .version = shm::kLayoutVersion,
                         .control_bytes = shm::kControlBytes,
                         .ring_cells = shm::kRingCells,
                         .class_count = 2,
                         .reserved = 0,
                         .classes = {{kSlotBytes[0], kSlots[0], 0}, {kSlotBytes[1], kSlots[1], 0}}};
    auto theirs = shm::PeerHalf::Verify(std::move(control_.descriptor), *options);
    auto mine = shm::LocalHalf::Create(options);
    MI7_CHECK(theirs.ok() && mine.ok(), "both halves are sound");
    int sockets[2];
    MI7_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0, "socketpair");
    peer_ = UniqueFd(sockets[1]);
    for (int i = 0; i < 2; ++i) {
      chunks_[i] = Make(kSlotBytes[i] * kSlots[i], false);
      const size_t bytes = std::min(content.size(), chunks_[i].mapping.bytes());
      if (bytes != 0) std::memcpy(chunks_[i].mapping.data(), content.data(), bytes);
      content = content.subspan(bytes);
      if (i == 0 || both)
        Pass(static_cast<uint8_t>(shm::kChunkByte + i), chunks_[i].descriptor.get());
    }
    link_ = new shm::Link(*std::move(mine), *std::move(theirs), UniqueFd(sockets[0]), trusted);
  }
  ~Reading() { link_->Unref(); }

  shm::Link& link() { return *link_; }

  // Touches every word of `message`: outside private memory and the chunks that ends the test, for
  // each chunk lies between guard pages.
  static void Touch(const IncomingMessage& message) {
    for (const auto& segment : message.segments()) {
      const auto* words = reinterpret_cast<const volatile uint64_t*>(segment.begin());
      uint64_t sum = 0;
      for (size_t i = 0; i < segment.size(); ++i) sum += words[i];
      asm volatile("" : : "r"(sum));
    }
  }

 private:
  void Pass(uint8_t byte, int descriptor) {
    iovec vector{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &descriptor, sizeof(descriptor));
    MI7_CHECK(::sendmsg(peer_.get(), &message, MSG_NOSIGNAL) == 1, "the socket has room");
  }

  shm::SharedMemory control_;
  shm::SharedMemory chunks_[2];
  UniqueFd peer_;
  shm::Link* link_;
};

void Run(std::span<const uint8_t> input) {
  if (input.empty()) return;
  MI7_CHECK(shm_hostile::GuardedMappings() == 0, "the input before this one left no mapping");
  const uint8_t options = input[0];
  input = input.subspan(1);
  Limits limits;
  limits.traversal_words_extra = 1024;
  limits.message_bytes_max = 64u << 10;
  limits.extra_bytes_max = 4096;
  limits.segments_max = 16;

  std::vector<shm::Record> records;
  while (!input.empty() && input[0] != 0xff && records.size() < 32) {
    shm::Record record;
    record.count = std::min<uint32_t>(input[0], shm::kRecordWordsMax);
    const size_t bytes = 2 + sizeof(record.header) + record.count * 8;
    if (input.size() < bytes) break;
    record.form = static_cast<shm::Form>(input[1]);
    std::memcpy(static_cast<void*>(&record.header), input.data() + 2, sizeof(record.header));
    std::memcpy(record.words.data(), input.data() + 2 + sizeof(record.header), record.count * 8);
    records.push_back(record);
    input = input.subspan(bytes);
  }
  if (!input.empty()) input = input.subspan(1);

  std::deque<IncomingMessage> held;
  Reading reading((options & 1) != 0, input, (options & 2) != 0);
  for (const shm::Record& record : records) {
    bool broken = false;
    IncomingMessage message;
    const absl::Status parsed = reading.link().Parse(record, limits, broken, message);
    if (!parsed.ok()) {
      const bool known = absl::IsInvalidArgument(parsed) || absl::IsResourceExhausted(parsed);
      MI7_CHECK(known, "what a record can be refused for");
      if (broken) break;
      continue;
    }
    MI7_CHECK(!broken, "a message is no breach of the protocol");
    MI7_CHECK(CheckFrameHeader(message.header(), limits).ok(), "only sound messages come out");
    uint64_t bytes = transport::kFrameHeaderBytes + message.extra().size();
    for (const auto& segment : message.segments()) bytes += segment.size() * 8;
    MI7_CHECK(bytes <= message.header().size, "a message is not larger than its header says");
    Reading::Touch(message);
    ReadWhole(message, limits);
    held.push_back(std::move(message));
    if (held.size() > 3) held.pop_front();
  }
}

}  // namespace
}  // namespace mi7::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mi7::fuzz::Run({data, size});
  return 0;
}
