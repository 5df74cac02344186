#include "transport/shm/link.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/object_pool.h"
#include "transport/copy_counter.h"

namespace mi7::transport::shm {
namespace {

constexpr size_t kWordBytes = 8;
// Descriptors in one message on the socket: more than one is against the protocol, and closed.
constexpr size_t kDescriptorsRead = 4;
// Reads of the socket in a row, after which others have their turn: more than what fills a socket,
// so whatever was sent before the first of them is found.
constexpr int kReadsMax = 4096;

constexpr size_t TableBytes(size_t segment_count) { return (segment_count / 2 + 1) * kWordBytes; }

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("the peer broke the shared-memory protocol: ", what));
}

// Where one piece lies: the bit of its first slot, and how many slots.
struct Held {
  uint32_t bit;
  uint32_t slots;
};

// A cookie is the only piece, which is odd, or the address of a SlotList, which is even.
constexpr uint64_t CookieOf(Held held) {
  return uint64_t{held.slots} << 32 | uint64_t{held.bit} << 1 | 1;
}
constexpr Held HeldOf(uint64_t cookie) {
  return {.bit = static_cast<uint32_t>(cookie) >> 1, .slots = static_cast<uint32_t>(cookie >> 32)};
}
static_assert(HeldOf(CookieOf({kSlotsMax - 1, 3})).bit == kSlotsMax - 1);
static_assert(HeldOf(CookieOf({kSlotsMax - 1, 3})).slots == 3);

}  // namespace

struct Link::SlotList {
  absl::InlinedVector<Held, 4> pieces;
  BufferRef first;  // what came in the record itself
};

Link::Link(LocalHalf mine, PeerHalf theirs, UniqueFd socket, bool trusted)
    : mine_(std::move(mine)),
      theirs_(std::move(theirs)),
      socket_(std::move(socket)),
      trusted_(trusted),
      doorbell_(mine_.control(), theirs_.control(), socket_.get()) {}

void Link::Unref() {
  if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
}

void Link::FlipReleased(uint32_t bit) {
  // Release: our reads of the slot come before the peer's next writes.
  mine().released[bit / 64].fetch_xor(uint64_t{1} << (bit % 64), std::memory_order_release);
}

std::pair<uint32_t, uint32_t> Link::SlotOfBit(uint32_t bit) const {
  const std::span<const SizeClass> classes = theirs_.classes();
  uint32_t size_class = 0;
  while (bit >= classes[size_class].count) bit -= classes[size_class++].count;
  return {size_class, bit};
}

uint32_t Link::SlotsOf(const Descriptor& piece) const {
  const uint64_t slot_bytes = theirs_.classes()[piece.size_class].slot_bytes;
  const uint64_t bytes = uint64_t{piece.words} * kWordBytes;
  if (bytes <= slot_bytes) [[likely]]
    return 1;
  return static_cast<uint32_t>((bytes + slot_bytes - 1) / slot_bytes);
}

void Link::Release(uint64_t cookie) {
  // In a forked child the page is not even mapped.
  if (forked()) [[unlikely]]
    return;
  const auto release = [this](Held held) {
    const auto [size_class, slot] = SlotOfBit(held.bit);
    if (size_class + 1 == theirs_.classes().size() && held_ != nullptr) {
      MarkHeld(slot, held.slots, false);
    }
    FlipReleased(held.bit);
    kept_[size_class].fetch_sub(held.slots, std::memory_order_relaxed);
  };
  if ((cookie & 1) != 0) {
    release(HeldOf(cookie));
  } else {
    const PooledPtr<SlotList> list(reinterpret_cast<SlotList*>(cookie));
    for (const Held held : list->pieces) release(held);
  }
  doorbell_.WakePeer(/*only_for_room=*/true);
  Unref();
}

absl::Status Link::Resolve(const Descriptor& piece, std::span<const std::byte>& bytes,
                           uint32_t& bit) {
  const std::span<const SizeClass> classes = theirs_.classes();
  if (piece.size_class >= classes.size() || piece.reserved != 0) {
    return Broken(absl::StrCat("a piece in size class ", piece.size_class, " of ", classes.size()));
  }
  const SizeClass& size_class = classes[piece.size_class];
  const uint64_t size = uint64_t{piece.words} * kWordBytes;
  const uint64_t start = size_class.slot_bytes * piece.slot;
  if (piece.slot >= size_class.count || size > size_class.slot_bytes * size_class.count - start) {
    return Broken(absl::StrCat("a piece of ", size, " bytes in slot ", piece.slot, " of ",
                               size_class.count, " of ", size_class.slot_bytes, " bytes"));
  }
  Mapping& chunk = chunks_[piece.size_class];
  if (!chunk) {
    // Its descriptor was sent before the record was written.
    absl::Status broken;
    ReadSocket(broken);
    if (!broken.ok()) return broken;
    if (!chunk) return Broken("a piece in a size class whose memory was not passed");
  }
  bytes = {chunk.data() + start, size};
  bit = piece.slot;
  for (uint32_t i = 0; i < piece.size_class; ++i) bit += classes[i].count;
  return absl::OkStatus();
}

absl::Status Link::Parse(const Record& record, const Limits& limits, bool& broken,
                         IncomingMessage& message) {
  broken = true;
  if (record.form < Form::kInline || record.form > Form::kFirstInline) [[unlikely]]
    return Broken(absl::StrCat("a record of form ", static_cast<int>(record.form)));
  if (!IsPlainCallOrReturn(record.header, limits)) [[unlikely]] {
    absl::Status checked = CheckFrameHeader(record.header, limits);
    if (!checked.ok()) {
      broken = !absl::IsResourceExhausted(checked);
      // What it lies in is released all the same.
      if (!broken && record.form != Form::kInline) {
        uint64_t i = record.form == Form::kFirstInline && record.count != 0
                         ? std::min<uint64_t>(record.words[0], kRecordWordsMax) + 1
                         : 0;
        for (; i < record.count; ++i) {
          std::span<const std::byte> bytes;
          uint32_t bit = 0;
          if (Resolve(std::bit_cast<Descriptor>(record.words[i]), bytes, bit).ok()) {
            FlipReleased(bit);
          }
        }
        doorbell_.WakePeer(/*only_for_room=*/true);
      }
      return checked;
    }
  }
  switch (record.form) {
    case Form::kInline:
      return ParseInline(record, broken, message);
    // The usual one has one or two pieces; what is cleared for more takes longer than all the rest.
    case Form::kSegments:
      return record.count <= 2 ? ParsePieces<2>(record, limits, broken, message)
                               : ParsePieces<kRecordWordsMax>(record, limits, broken, message);
    case Form::kFirstInline: {
      const uint64_t extra_words = record.header.extra_size / kWordBytes;
      if (record.count < 3 || record.words[0] > record.count - 2 ||
          record.words[0] <= extra_words) {
        return Broken(absl::StrCat(
            "a record of ", record.count, " words, ", record.count != 0 ? record.words[0] : 0,
            " of which are an extra part of ", extra_words, " and a segment"));
      }
      return extra_words == 0 && record.count - record.words[0] == 2
                 ? ParsePieces<2>(record, limits, broken, message)
                 : ParsePieces<kRecordWordsMax>(record, limits, broken, message);
    }
    case Form::kStream:
      return ParseStream(record, limits, broken, message);
  }
  return Broken(absl::StrCat("a record of form ", static_cast<int>(record.form)));
}

absl::Status Link::ParseInline(const Record& record, bool& broken, IncomingMessage& message) {
  const FrameHeader& header = record.header;
  const uint64_t rest = header.size - kFrameHeaderBytes;
  const bool has_body = rest != header.extra_size;
  const uint64_t words = rest / kWordBytes - (has_body ? 1 : 0);  // without the segment table
  if (words != record.count) {
    return Broken(absl::StrCat("a record of ", record.count, " words for a message of ",
                               header.size, " bytes"));
  }
  broken = false;
  if (record.count == 0) {
    message.Set(header, {}, {}, nullptr, 0);
    return absl::OkStatus();
  }
  Buffer* const buffer = BufferPool::Allocate(kRecordWordsMax * kWordBytes).release();
  std::memcpy(buffer->data(), record.words.data(), record.count * kWordBytes);
  const std::span<const std::byte> extra{buffer->data(), header.extra_size};
  const IncomingMessage::Segment body{
      reinterpret_cast<const capnp::word*>(buffer->data() + header.extra_size),
      record.count - header.extra_size / kWordBytes};
  message.Set(header, extra, {&body, has_body ? 1u : 0u}, buffer, 0);
  message.set_memory_is_private();
  return absl::OkStatus();
}

template <uint32_t kPiecesMax>
absl::Status Link::ParsePieces(const Record& record, const Limits& limits, bool& broken,
                               IncomingMessage& message) {
  const FrameHeader& header = record.header;
  std::array<std::span<const std::byte>, kPiecesMax> pieces;
  std::array<Held, kPiecesMax> held;
  if (record.count == 0) return Broken("a message in pieces without a piece");
  const uint32_t extra_count = header.extra_size != 0 ? 1 : 0;
  // What is in the record itself, which Parse has looked at: pieces that lie in no slot.
  uint32_t inline_count = 0;
  uint32_t at = 0;
  if (record.form == Form::kFirstInline) {
    const std::span<const std::byte> both(reinterpret_cast<const std::byte*>(&record.words[1]),
                                          record.words[0] * kWordBytes);
    if (extra_count != 0) pieces[inline_count++] = both.first(header.extra_size);
    pieces[inline_count++] = both.subspan(header.extra_size);
    at = 1 + static_cast<uint32_t>(record.words[0]);
  }
  const uint32_t piece_count = inline_count + record.count - at;
  MI7_CHECK(piece_count <= kPiecesMax, "Parse chooses by the number of pieces");
  for (uint32_t i = inline_count; i < piece_count; ++i, ++at) {
    const auto piece = std::bit_cast<Descriptor>(record.words[at]);
    absl::Status resolved = Resolve(piece, pieces[i], held[i].bit);
    if (!resolved.ok()) return resolved;
    held[i].slots = SlotsOf(piece);
  }
  const uint32_t segment_count = piece_count - extra_count;
  uint64_t total = kFrameHeaderBytes + header.extra_size;
  if (segment_count != 0) total += TableBytes(segment_count);
  for (uint32_t i = extra_count; i < piece_count; ++i) total += pieces[i].size();
  if ((extra_count != 0 && pieces[0].size() != header.extra_size) || total != header.size) {
    return Broken(absl::StrCat("pieces of ", total, " bytes for a message of ", header.size));
  }
  broken = false;
  uint64_t cookie = CookieOf(held[inline_count]);
  if (piece_count > 1) {
    auto list = MakePooled<SlotList>();
    list->pieces.assign(held.begin() + inline_count, held.begin() + piece_count);
    cookie = reinterpret_cast<uint64_t>(list.release());
  }
  refs_.fetch_add(1, std::memory_order_relaxed);
  bool in_place = true;
  for (uint32_t i = record.count - (piece_count - inline_count); i < record.count; ++i) {
    in_place &= Keep(std::bit_cast<Descriptor>(record.words[i]), limits);
  }
  if (segment_count > limits.segments_max) {
    Release(cookie);
    return absl::InvalidArgumentError(absl::StrCat("message body has ", segment_count,
                                                   " segments, more than limits.segments_max, ",
                                                   limits.segments_max));
  }
  if (!in_place) {
    // In stream form, so that what is parsed cannot change any more.
    copied_payload_bytes.fetch_add(total, std::memory_order_relaxed);
    Buffer* const copy = BufferPool::Allocate(total).release();
    std::byte* out = copy->data();
    const auto append = [&out](const void* data, size_t bytes) {
      if (bytes != 0) ReadShared(out, data, bytes);
      out += bytes;
    };
    if (extra_count != 0) append(pieces[0].data(), pieces[0].size());
    if (segment_count != 0) {
      std::memset(out, 0, TableBytes(segment_count));
      const uint32_t last = segment_count - 1;
      std::memcpy(out, &last, sizeof(last));
      for (uint32_t i = 0; i < segment_count; ++i) {
        const auto words = static_cast<uint32_t>(pieces[extra_count + i].size() / kWordBytes);
        std::memcpy(out + (i + 1) * sizeof(words), &words, sizeof(words));
      }
      out += TableBytes(segment_count);
    }
    for (uint32_t i = extra_count; i < piece_count; ++i) append(pieces[i].data(), pieces[i].size());
    Release(cookie);
    return ParseMessage(header, {copy->data(), total - kFrameHeaderBytes}, copy, 0, limits,
                        message);
  }
  if (inline_count != 0) {
    Buffer* const first = BufferPool::Allocate(kRecordWordsMax * kWordBytes).release();
    reinterpret_cast<SlotList*>(cookie)->first = BufferRef(first);
    std::memcpy(first->data(), &record.words[1], record.words[0] * kWordBytes);
    if (extra_count != 0) pieces[0] = {first->data(), header.extra_size};
    pieces[extra_count] = {first->data() + header.extra_size, pieces[extra_count].size()};
  }
  std::array<IncomingMessage::Segment, kPiecesMax> segments;
  for (uint32_t i = 0; i < segment_count; ++i) {
    const std::span<const std::byte> piece = pieces[extra_count + i];
    segments[i] = {reinterpret_cast<const capnp::word*>(piece.data()), piece.size() / kWordBytes};
  }
  message.Set(header, extra_count != 0 ? pieces[0] : std::span<const std::byte>{},
              {segments.data(), segment_count}, this, cookie);
  return absl::OkStatus();
}

absl::Status Link::ParseStream(const Record& record, const Limits& limits, bool& broken,
                               IncomingMessage& message) {
  const FrameHeader& header = record.header;
  if (record.count != 1) return Broken("a message in stream form has one piece");
  std::span<const std::byte> rest;
  uint32_t bit = 0;
  const auto piece = std::bit_cast<Descriptor>(record.words[0]);
  absl::Status resolved = Resolve(piece, rest, bit);
  if (!resolved.ok()) return resolved;
  if (rest.size() != header.size - kFrameHeaderBytes || rest.empty()) {
    return Broken(
        absl::StrCat("a piece of ", rest.size(), " bytes for a message of ", header.size));
  }
  broken = false;
  const uint64_t cookie = CookieOf({.bit = bit, .slots = SlotsOf(piece)});
  refs_.fetch_add(1, std::memory_order_relaxed);
  if (!Keep(piece, limits)) {
    copied_payload_bytes.fetch_add(rest.size(), std::memory_order_relaxed);
    Buffer* const copy = BufferPool::Allocate(rest.size()).release();
    ReadShared(copy->data(), rest.data(), rest.size());
    Release(cookie);
    return ParseMessage(header, {copy->data(), rest.size()}, copy, 0, limits, message);
  }
  // Only the table is read here, and once; the segments are the user's to read.
  const auto malformed = [&](std::string why) -> absl::Status {
    Release(cookie);
    return absl::InvalidArgumentError(std::move(why));
  };
  const std::span<const std::byte> extra = rest.first(header.extra_size);
  const std::span<const std::byte> body = rest.subspan(header.extra_size);
  if (body.empty()) {
    message.Set(header, extra, {}, this, cookie);
    return absl::OkStatus();
  }
  uint64_t word;
  ReadShared(&word, body.data(), sizeof(word));
  const uint64_t count = (word & 0xffffffff) + 1;
  if (count > limits.segments_max) {
    return malformed(absl::StrCat("message body has ", count,
                                  " segments, more than limits.segments_max, ",
                                  limits.segments_max));
  }
  const uint64_t table_bytes = TableBytes(count);
  if (table_bytes > body.size()) {
    return malformed(absl::StrCat("message body of ", body.size(),
                                  " bytes cannot hold the table of its ", count, " segments"));
  }
  std::vector<uint32_t> table(table_bytes / sizeof(uint32_t));
  ReadShared(table.data(), body.data(), table_bytes);
  std::vector<IncomingMessage::Segment> segments(count);
  uint64_t total = table_bytes;
  const auto* words = reinterpret_cast<const capnp::word*>(body.data() + table_bytes);
  for (uint64_t i = 0; i < count; ++i) {
    total += uint64_t{table[i + 1]} * kWordBytes;
    if (total > body.size()) break;
    segments[i] = {words, table[i + 1]};
    words += table[i + 1];
  }
  if (total != body.size() || (count % 2 == 0 && table[count + 1] != 0)) {
    return malformed(absl::StrCat("segment table adds up to ", total, " bytes, message body has ",
                                  body.size(), ", or its padding is not 0"));
  }
  message.Set(header, extra, segments, this, cookie);
  return absl::OkStatus();
}

absl::Status Link::KeepChunk(uint32_t size_class, UniqueFd descriptor) {
  const std::span<const SizeClass> classes = theirs_.classes();
  if (size_class >= classes.size()) {
    return Broken(absl::StrCat("memory for size class ", size_class, " of ", classes.size()));
  }
  if (chunks_[size_class]) return Broken("memory for a size class that has it already");
  auto mapping = MapPeerMemory(
      descriptor, classes[size_class].slot_bytes * classes[size_class].count, /*for_good=*/false);
  if (!mapping.ok()) return mapping.status();
  chunks_[size_class] = *std::move(mapping);
  return absl::OkStatus();
}

Link::SocketState Link::ReadSocket(absl::Status& broken) {
  for (int reads = 0; reads < kReadsMax; ++reads) {
    uint8_t bytes[64];
    iovec vector{bytes, sizeof(bytes)};
    alignas(cmsghdr) char control[CMSG_SPACE(kDescriptorsRead * sizeof(int))];
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t got =
        ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_NOSIGNAL);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return SocketState::kOpen;
    std::vector<UniqueFd> descriptors;
    if (got >= 0) {
      for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
           part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; ++i) {
          int fd;
          std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
          descriptors.emplace_back(fd);
        }
      }
    }
    if (got <= 0) return SocketState::kEnd;
    // Bytes that came before a descriptor are read alone, so a descriptor belongs to the only chunk
    // byte of what it came with: the last one.
    int chunk = -1;
    for (ssize_t i = 0; i < got; ++i) {
      if (bytes[i] == kWakeByte) continue;
      if (bytes[i] < kChunkByte || bytes[i] >= kChunkByte + kClassesMax || chunk >= 0) {
        broken = Broken(absl::StrCat("byte ", static_cast<int>(bytes[i]), " on the socket"));
        return SocketState::kOpen;
      }
      chunk = bytes[i] - kChunkByte;
    }
    if (chunk >= 0 && descriptors.empty() && (message.msg_flags & MSG_CTRUNC) != 0) {
      broken = absl::ResourceExhaustedError(
          "this process has no descriptor left for the peer's shared memory (ulimit -n)");
      return SocketState::kOpen;
    }
    if ((chunk >= 0) != (descriptors.size() == 1) || descriptors.size() > 1) {
      broken = Broken(
          absl::StrCat(descriptors.size(), " descriptors for ", chunk >= 0 ? 1 : 0, " announced"));
      return SocketState::kOpen;
    }
    if (chunk >= 0) {
      broken = KeepChunk(static_cast<uint32_t>(chunk), std::move(descriptors[0]));
      if (!broken.ok()) return SocketState::kOpen;
    } else if (static_cast<size_t>(got) < sizeof(bytes)) {
      return SocketState::kOpen;  // there was no more; what comes next is told by the loop
    }
  }
  return SocketState::kMore;
}

absl::Status Link::SendChunk(uint32_t size_class, int descriptor) {
  uint8_t byte = static_cast<uint8_t>(kChunkByte + size_class);
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
  ssize_t sent;
  do {
    sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent == 1) return absl::OkStatus();
  if (errno == EPIPE || errno == ECONNRESET) return absl::UnavailableError("the peer is gone");
  return absl::ResourceExhaustedError(
      absl::StrCat("shared memory: passing its descriptor: ", ::strerror(errno)));
}

}  // namespace mi7::transport::shm
