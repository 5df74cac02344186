#include "tests/shm_hostile/malformed_cases.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include <capnp/any.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "transport/frame.h"
#include "transport/message.h"
#include "transport/unique_fd.h"

namespace mi7::shm_hostile {
namespace {

using transport::FrameType;
using transport::TargetKind;
using transport::UniqueFd;
using transport::shm::Form;
using transport::shm::ShapeOf;
using Case = MalformedCase;
using Event = Witness::Event;

constexpr absl::StatusCode kOk = absl::StatusCode::kOk;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kExhausted = absl::StatusCode::kResourceExhausted;

constexpr uint64_t kChunk0 = HostilePeer::kSlotBytes[0] * HostilePeer::kSlots[0];
constexpr int kSealed = F_SEAL_SHRINK | F_SEAL_GROW;

// Puts what `change` makes of a sound record.
std::function<void(HostilePeer&)> Changed(std::function<void(RawRecord&)> change) {
  return [change](HostilePeer& peer) {
    RawRecord record = Sound();
    change(record);
    peer.Put(record);
    peer.Ring();
  };
}

// A message in stream form of `words` words in slot 0, which begins with `start`.
std::function<void(HostilePeer&)> Stream(uint32_t words, std::vector<uint64_t> start) {
  return [=](HostilePeer& peer) {
    for (size_t i = 0; i < start.size(); ++i) peer.slot(0, 0)[i] = start[i];
    Pieces(Form::kStream, 32 + words * 8, {Describe(words, 0, 0)})(peer);
  };
}

std::function<void(HostilePeer&)> Bytes(std::vector<uint8_t> bytes) {
  return [bytes](HostilePeer& peer) { peer.SendBytes(bytes); };
}

// Passes what `make` makes as the memory of class 0.
std::function<void(HostilePeer&)> Passed(std::function<int()> make) {
  return [make](HostilePeer& peer) {
    const UniqueFd fd(make());
    ASSERT_TRUE(fd);
    ASSERT_TRUE(peer.SendByte(0x10, {fd.get()}));
  };
}

}  // namespace

RawRecord Sound() { return CallRecord(Form::kInline, 32 + 8 + 16, {0x0000000100000000, 1}); }

std::function<void(HostilePeer&)> Pieces(Form form, uint32_t size, std::vector<uint64_t> words,
                                         uint32_t extra_size) {
  return [=](HostilePeer& peer) {
    for (size_t i = 0; i < 2; ++i) peer.SendChunk(i);
    RawRecord record = CallRecord(form, size, words);
    record.header.extra_size = extra_size;
    peer.Put(record);
    peer.Ring();
  };
}

int Memory(uint64_t bytes, int seals, unsigned flags) {
  const int fd = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
  if (fd >= 0 &&
      (::ftruncate(fd, static_cast<off_t>(bytes)) != 0 || ::fcntl(fd, F_ADD_SEALS, seals) != 0)) {
    ::close(fd);
    return -1;
  }
  return fd;
}

std::vector<MalformedCase> RecordCases() {
  const auto closed = Event::kClosed;
  const auto rejected = Event::kRejected;
  const auto message = Event::kMessage;
  std::vector<MalformedCase> cases = {
      {"Sound", Changed([](RawRecord&) {}), message, kOk, ""},
      {"FormZero", Changed([](RawRecord& r) { r.shape &= ~0xffu; }), closed, kInvalid, "form 0"},
      {"FormFive", Changed([](RawRecord& r) { r.shape += 4; }), closed, kInvalid, "form 5"},
      {"FormAll", Changed([](RawRecord& r) { r.shape |= 0xff; }), closed, kInvalid, "form 255"},
      {"WordsTooMany", Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 4, 25); }),
       closed, kInvalid, "larger than a record"},
      {"WordsAndCellsTooMany",
       Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 5, 25); }), closed, kInvalid,
       "larger than a record"},
      {"WordsAndCellsFarTooMany",
       Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 255, 1781); }), closed, kInvalid,
       "larger than a record"},
      {"WordsFarTooMany",
       Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 1, 0xffff); }), closed, kInvalid,
       "larger than a record"},
      {"CellsTooMany", Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 2, 2); }),
       closed, kInvalid, "larger than a record"},
      {"CellsZero", Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 0, 2); }), closed,
       kInvalid, "larger than a record"},
      {"CellsTooFew", Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 1, 4); }), closed,
       kInvalid, "larger than a record"},
      {"CellsAll", Changed([](RawRecord& r) { r.shape = ShapeOf(Form::kInline, 255, 2); }), closed,
       kInvalid, "larger than a record"},
      {"ShapeZero", Changed([](RawRecord& r) { r.shape = 0; }), closed, kInvalid,
       "larger than a record"},
      {"InlineLonger", Changed([](RawRecord& r) { r.header.size += 8; }), closed, kInvalid,
       "a record of 2 words for a message of 64 bytes"},
      {"InlineShorter", Changed([](RawRecord& r) { r.header.size -= 8; }), closed, kInvalid,
       "a record of 2 words for a message of 48 bytes"},
      {"InlineNoBody", Changed([](RawRecord& r) { r.header.size = 32; }), closed, kInvalid,
       "a record of 2 words for a message of 32 bytes"},
      {"SizeOdd", Changed([](RawRecord& r) { r.header.size += 4; }), closed, kInvalid,
       "size is 60"},
      {"SizeSmall", Changed([](RawRecord& r) { r.header.size = 24; }), closed, kInvalid,
       "size is 24"},
      {"SizeZero", Changed([](RawRecord& r) { r.header.size = 0; }), closed, kInvalid, "size is 0"},
      {"SizeHuge", Changed([](RawRecord& r) { r.header.size = 0xfffffff8; }), rejected, kExhausted,
       "message_bytes_max"},
      {"TypeZero", Changed([](RawRecord& r) { r.header.type = FrameType{0}; }), closed, kInvalid,
       "type is 0"},
      {"TypeTwelve", Changed([](RawRecord& r) { r.header.type = FrameType{12}; }), closed, kInvalid,
       "type is 12"},
      {"TypeAll", Changed([](RawRecord& r) { r.header.type = FrameType{255}; }), closed, kInvalid,
       "type is 255"},
      {"TargetZero", Changed([](RawRecord& r) { r.header.target = TargetKind::kNone; }), closed,
       kInvalid, "target is 0"},
      {"TargetFour", Changed([](RawRecord& r) { r.header.target = TargetKind{4}; }), closed,
       kInvalid, "target is 4"},
      {"Hello", Changed([](RawRecord& r) {
         r.header.type = FrameType::kHello;
         r.header.target = TargetKind::kNone;
         r.header.call_id = 0;
       }),
       closed, kInvalid, "second hello"},
      {"PingWithBody", Changed([](RawRecord& r) {
         r.header.type = FrameType::kPing;
         r.header.target = TargetKind::kNone;
       }),
       closed, kInvalid, "size is 56"},
      {"ReturnWithTimeout", Changed([](RawRecord& r) {
         r.header.type = FrameType::kReturn;
         r.header.target = TargetKind::kNone;
         r.header.timeout = 5;
       }),
       closed, kInvalid, "timeout is 5"},
      {"ReturnCode", Changed([](RawRecord& r) {
         r.header.type = FrameType::kReturn;
         r.header.target = TargetKind::kNone;
         r.header.code = 17;
       }),
       closed, kInvalid, "code is 17"},
      {"ExtraOdd", Changed([](RawRecord& r) { r.header.extra_size = 4; }), closed, kInvalid,
       "extra_size is 4"},
      {"ExtraTooLong", Changed([](RawRecord& r) { r.header.extra_size = 32; }), closed, kInvalid,
       "extra_size is 32"},
      {"ExtraHuge", Changed([](RawRecord& r) { r.header.extra_size = 0xfffffff8; }), closed,
       kInvalid, "extra_size is 4294967288"},
      // All that follows the header, so there is no body and no segment table.
      {"ExtraForBody", Changed([](RawRecord& r) { r.header.extra_size = 24; }), closed, kInvalid,
       "a record of 2 words"},
      {"ExtraOfOneWord", Changed([](RawRecord& r) { r.header.extra_size = 8; }), message, kOk, ""},
      {"ExtraAlone", Changed([](RawRecord& r) {
         r.header.extra_size = 16;
         r.header.size = 48;
       }),
       message, kOk, ""},
  };
  for (const Form form : {Form::kSegments, Form::kStream}) {
    const char* const of = form == Form::kSegments ? "Segments" : "Stream";
    // The size that a message in one piece of so many words has.
    const auto size = [form](uint32_t words) {
      return 32 + words * 8 + (form == Form::kSegments ? 8 : 0);
    };
    const auto piece = [&](const char* name, uint32_t words, uint16_t slot, uint8_t size_class,
                           uint8_t reserved, const char* why) {
      cases.push_back({absl::StrCat(of, name),
                       Pieces(form, size(words), {Describe(words, slot, size_class, reserved)}),
                       closed, kInvalid, why});
    };
    piece("ClassAfterLast", 2, 0, 2, 0, "size class 2 of 2");
    piece("ClassAll", 2, 0, 255, 0, "size class 255 of 2");
    piece("Reserved", 2, 0, 0, 1, "size class 0");
    piece("SlotAfterLast", 2, 8, 0, 0, "slot 8 of 8");
    piece("SlotAll", 2, 65535, 1, 0, "slot 65535 of 4");
    piece("PastTheEnd", 513, 7, 0, 0, "4104 bytes in slot 7");
    piece("PastTheEndOfAll", 4097, 0, 0, 0, "32776 bytes in slot 0");
    cases.push_back({absl::StrCat(of, "AllWords"), Pieces(form, 64, {Describe(0xffffffff, 0, 1)}),
                     closed, kInvalid, "34359738360 bytes in slot 0"});
    cases.push_back({absl::StrCat(of, "NoPiece"), Pieces(form, 64, {}), closed, kInvalid, "piece"});
    cases.push_back({absl::StrCat(of, "Longer"), Pieces(form, size(2) + 8, {Describe(2, 0, 0)}),
                     closed, kInvalid, "bytes for a message of"});
    cases.push_back({absl::StrCat(of, "Shorter"), Pieces(form, size(2) - 8, {Describe(2, 0, 0)}),
                     closed, kInvalid, "bytes for a message of"});
    cases.push_back({absl::StrCat(of, "MemoryNotPassed"),
                     [form, size](HostilePeer& peer) {
                       peer.SendChunk(1);
                       peer.Put(CallRecord(form, size(2), {Describe(2, 0, 0)}));
                       peer.Ring();
                     },
                     closed, kInvalid, "memory was not passed"});
    cases.push_back({absl::StrCat(of, "TooLarge"),
                     Pieces(form, 128u << 20, {Describe(2, 1, 0), Describe(2, 0xffff, 9)}),
                     rejected, kExhausted, "message_bytes_max"});
  }
  const auto segments = [&](const char* name, uint32_t size, std::vector<uint64_t> words,
                            uint32_t extra, Event::Kind kind, absl::StatusCode code,
                            const char* why) {
    cases.push_back({absl::StrCat("Segments", name), Pieces(Form::kSegments, size, words, extra),
                     kind, code, why});
  };
  segments("ToTheEnd", 40 + 512 * 8, {Describe(512, 7, 0)}, 0, message, kOk, "");
  segments("WholeChunk", 40 + 4096 * 8, {Describe(4096, 0, 0)}, 0, message, kOk, "");
  segments("Overlapping", 48 + 1024 * 8, {Describe(512, 2, 0), Describe(512, 2, 0)}, 0, message,
           kOk, "");
  segments("Empty", 40, {Describe(0, 0, 0)}, 0, message, kOk, "");
  segments("TooMany", 32 + 24 + 4 * 8,
           {Describe(1, 0, 0), Describe(1, 1, 0), Describe(1, 2, 0), Describe(1, 3, 0)}, 0,
           rejected, kInvalid, "segments_max");
  segments("ExtraLonger", 40 + 24, {Describe(2, 0, 0), Describe(1, 1, 0)}, 8, closed, kInvalid,
           "pieces of");
  segments("ExtraShorter", 40 + 24, {Describe(1, 0, 0), Describe(2, 1, 0)}, 16, closed, kInvalid,
           "pieces of");
  segments("ExtraWithoutBody", 48, {Describe(2, 0, 0)}, 16, message, kOk, "");
  segments("ExtraWithoutPiece", 56, {Describe(2, 0, 0)}, 24, closed, kInvalid, "pieces of");
  segments("ExtraTooLarge", 40 + (128u << 10), {Describe(2, 0, 0)}, 128u << 10, rejected,
           kExhausted, "extra_bytes_max");
  const auto first_inline = [&](const char* name, uint32_t size, std::vector<uint64_t> words,
                                uint32_t extra, Event::Kind kind, absl::StatusCode code,
                                const char* why) {
    cases.push_back({absl::StrCat("FirstInline", name),
                     Pieces(Form::kFirstInline, size, words, extra), kind, code, why});
  };
  first_inline("Sound", 48 + 80, {2, 0, 0, Describe(8, 0, 0)}, 0, message, kOk, "");
  first_inline("Extra", 48 + 88, {3, 0, 0, 0, Describe(8, 0, 0)}, 8, message, kOk, "");
  first_inline("Full", 48 + 184, {22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                  0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, Describe(1, 7, 0)},
               0, message, kOk, "");
  first_inline("Nothing", 48 + 64, {0, Describe(4, 0, 0), Describe(4, 1, 0)}, 0, closed, kInvalid,
               "3 words, 0 of which");
  first_inline("NoWords", 64, {}, 0, closed, kInvalid, "0 words, 0 of which");
  first_inline("NoPiece", 40 + 24, {2, 0, 0}, 0, closed, kInvalid, "3 words, 2 of which");
  first_inline("TooMany", 48 + 80, {3, 0, 0, Describe(8, 0, 0)}, 0, closed, kInvalid,
               "4 words, 3 of which");
  first_inline("AllWords", 48 + 80, {~uint64_t{0}, 0, 0, Describe(8, 0, 0)}, 0, closed, kInvalid,
               "4 words, 18446744073709551615 of which");
  first_inline("ExtraIsAll", 48 + 80, {2, 0, 0, Describe(8, 0, 0)}, 16, closed, kInvalid,
               "an extra part of 2");
  first_inline("ExtraLonger", 48 + 80, {2, 0, 0, Describe(8, 0, 0)}, 24, closed, kInvalid,
               "an extra part of 3");
  first_inline("Longer", 48 + 88, {2, 0, 0, Describe(8, 0, 0)}, 0, closed, kInvalid, "pieces of");
  first_inline("Shorter", 48 + 72, {2, 0, 0, Describe(8, 0, 0)}, 0, closed, kInvalid, "pieces of");
  first_inline("SlotAfterLast", 48 + 80, {2, 0, 0, Describe(8, 8, 0)}, 0, closed, kInvalid,
               "slot 8 of 8");
  first_inline("SegmentsTooMany", 32 + 24 + 4 * 8,
               {1, 0, Describe(1, 0, 0), Describe(1, 1, 0), Describe(1, 2, 0)}, 0, rejected,
               kInvalid, "segments_max");
  first_inline("TooLarge", 128u << 20, {2, 0, 0, Describe(2, 1, 0), Describe(2, 0xffff, 9)}, 0,
               rejected, kExhausted, "message_bytes_max");
  first_inline("TooLargeAllWords", 128u << 20, {~uint64_t{0}, 0, 0, Describe(2, 1, 0)}, 0, rejected,
               kExhausted, "message_bytes_max");
  cases.push_back({"StreamTwoPieces",
                   Pieces(Form::kStream, 64, {Describe(2, 0, 0), Describe(2, 1, 0)}), closed,
                   kInvalid, "one piece"});
  cases.push_back(
      {"StreamEmpty", Pieces(Form::kStream, 32, {Describe(0, 0, 0)}), closed, kInvalid, "0 bytes"});
  const auto stream = [&](const char* name, uint32_t words, std::vector<uint64_t> start,
                          Event::Kind kind, absl::StatusCode code, const char* why) {
    cases.push_back({absl::StrCat("Stream", name), Stream(words, start), kind, code, why});
  };
  stream("Sound", 3, {uint64_t{2} << 32}, message, kOk, "");
  stream("AllSegments", 3, {0xffffffff}, rejected, kInvalid, "segments_max");
  stream("SegmentsOverTheMost", 8, {3}, rejected, kInvalid, "segments_max");
  stream("TableTooLong", 1, {2}, rejected, kInvalid, "cannot hold the table");
  stream("SegmentLonger", 3, {uint64_t{3} << 32}, rejected, kInvalid, "adds up to");
  stream("SegmentShorter", 3, {uint64_t{1} << 32}, rejected, kInvalid, "adds up to");
  stream("SegmentAll", 3, {uint64_t{0xffffffff} << 32}, rejected, kInvalid, "adds up to");
  stream("Padding", 4, {1 | uint64_t{1} << 32, 1 | uint64_t{1} << 32}, rejected, kInvalid,
         "padding");
  return cases;
}

std::vector<MalformedCase> SocketCases() {
  const auto closed = Event::kClosed;
  const auto socket = [&](const char* name, std::function<void(HostilePeer&)> act,
                          const char* why) {
    return MalformedCase{name, std::move(act), closed, kInvalid, why};
  };
  return {
      socket("ByteOne", Bytes({1}), "byte 1 on the socket"),
      socket("ByteAfterChunks", Bytes({0x16}), "byte 22 on the socket"),
      socket("ByteAll", Bytes({0, 0, 255}), "byte 255 on the socket"),
      socket("ChunkWithoutDescriptor", Bytes({0x10}), "0 descriptors for 1"),
      socket("TwoChunksAtOnce", Bytes({0x10, 0x11}), "byte 17 on the socket"),
      socket(
          "WakeWithDescriptor", [](HostilePeer& p) { p.SendByte(0, {p.socket()}); },
          "1 descriptors for 0"),
      socket(
          "TwoDescriptors",
          [](HostilePeer& p) {
            p.SendByte(0x10, {p.chunk_descriptor(0), p.socket()});
          },
          "2 descriptors for 1"),
      // Of more than four the system drops the rest.
      socket(
          "FiveDescriptors",
          [](HostilePeer& p) {
            const int fd = p.chunk_descriptor(0);
            p.SendByte(0x10, {fd, fd, fd, fd, fd});
          },
          "4 descriptors for 1"),
      socket(
          "ChunkTwice",
          [](HostilePeer& p) {
            p.SendChunk(0);
            p.SendChunk(0);
          },
          "that has it already"),
      socket(
          "ChunkOfNoClass", [](HostilePeer& p) { p.SendByte(0x12, {p.chunk_descriptor(0)}); },
          "size class 2 of 2"),
      socket(
          "ChunkOfAnotherClass", [](HostilePeer& p) { p.SendByte(0x10, {p.chunk_descriptor(1)}); },
          "must be 32768"),
      socket("ChunkSmaller", Passed([] { return Memory(kChunk0 - 4096, kSealed); }),
             "is 28672 bytes large"),
      socket("ChunkLarger", Passed([] { return Memory(kChunk0 + 1, kSealed); }),
             "is 32769 bytes large"),
      socket("ChunkUnsealed", Passed([] { return Memory(kChunk0, 0); }), "has seals 0"),
      socket("ChunkMayShrink", Passed([] { return Memory(kChunk0, F_SEAL_GROW); }), "has seals 4"),
      socket("ChunkMayGrow", Passed([] { return Memory(kChunk0, F_SEAL_SHRINK); }), "has seals 2"),
      socket("File", Passed([] { return ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC); }),
             "memfd"),
      socket("Folder", Passed([] { return ::open("/", O_RDONLY | O_CLOEXEC | O_DIRECTORY); }),
             "memfd"),
      socket("Zero", Passed([] { return ::open("/dev/zero", O_RDWR | O_CLOEXEC); }), "memfd"),
      socket("Socket", Passed([] { return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); }),
             "memfd"),
      socket("Event", Passed([] { return ::eventfd(0, EFD_CLOEXEC); }), "memfd"),
      {"End", [](HostilePeer& p) { p.HangUp(); }, closed, kOk, ""},
  };
}

std::vector<MalformedCase> HarmlessCases() {
  const auto then_sound = [](std::function<void(HostilePeer&)> act) {
    return [act = std::move(act)](HostilePeer& peer) {
      act(peer);
      // More than the ring holds, so that `consumed` is looked at.
      for (int i = 0; i < 200; ++i) {
        auto message = transport::NewHeapMessage(64);
        message->header.type = FrameType::kPing;
        message->has_body = false;
        ASSERT_TRUE(peer.connection()->Send(std::move(message)).ok());
      }
      auto built = peer.connection()->Reserve(3000);
      ASSERT_TRUE(built.ok());
      (*built)->header.type = FrameType::kReturn;
      (*built)->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(2000);
      ASSERT_TRUE(peer.connection()->Send(*std::move(built)).ok());
      peer.Put(Sound());
      peer.Ring();
    };
  };
  const auto harmless = [&](const char* name, std::function<void(HostilePeer&)> act) {
    return MalformedCase{name, then_sound(std::move(act)), Event::kMessage, kOk, ""};
  };
  return {
      harmless("ConsumedAhead", [](HostilePeer& p) { p.half().consumed.store(1000); }),
      harmless("ConsumedBackwards", [](HostilePeer& p) { p.half().consumed.store(0xfffffff0); }),
      harmless("ConsumedTooSoon", [](HostilePeer& p) { p.half().consumed.store(50); }),
      harmless("ReleasedAll",
               [](HostilePeer& p) {
                 for (auto& word : p.half().released) word.store(~uint64_t{0});
               }),
      harmless("AttentionAll", [](HostilePeer& p) { p.half().attention.store(~0u); }),
      harmless("BellBackwards", [](HostilePeer& p) { p.half().bell.store(0xfffffff0); }),
      harmless("GeometryGone",
               [](HostilePeer& p) {
                 std::fill(p.control_words().begin(), p.control_words().begin() + 16, ~uint64_t{0});
               }),
      // The first cell's belongs to the sound record that follows.
      harmless("SequencesAhead",
               [](HostilePeer& p) {
                 for (uint32_t i = 1; i < transport::shm::kRingCells; ++i)
                   p.half().ring[i].sequence.store(i + 9);
               }),
  };
}

}  // namespace mi7::shm_hostile
