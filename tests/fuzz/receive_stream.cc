#include "tests/fuzz/receive_stream.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <utility>

#include <capnp/any.h>
#include <capnp/message.h>
#include <capnp/serialize.h>

#include "base/check.h"
#include "rpc/call_outcome.h"
#include "rpc/error_codec.h"
#include "rpc/go_away.h"
#include "rpc/message_reader.h"
#include "rpc/metadata.h"
#include "rpc/metadata_codec.h"
#include "rpc/trace_context.h"
#include "schema/protocol.capnp.h"
#include "transport/frame_assembler.h"
#include "transport/handshake.h"

namespace mi7::fuzz {
namespace {

using transport::FrameAssembler;
using transport::FrameHeader;
using transport::FrameType;
using transport::IncomingMessage;

// Follows every pointer below `pointer`. Cap'n Proto's limits end what would not end.
size_t Walk(capnp::AnyPointer::Reader pointer);

size_t Walk(capnp::AnyStruct::Reader structure) {
  size_t seen = 0;
  for (const kj::byte byte : structure.getDataSection()) seen += byte != 0;
  for (const capnp::AnyPointer::Reader pointer : structure.getPointerSection()) {
    seen += Walk(pointer);
  }
  return seen;
}

size_t Walk(capnp::AnyPointer::Reader pointer) {
  size_t seen = 0;
  // A broken pointer says so when it is read; the others are as good as they were.
  try {
    switch (pointer.getPointerType()) {
      case capnp::PointerType::NULL_:
        break;
      case capnp::PointerType::STRUCT:
        seen += Walk(pointer.getAs<capnp::AnyStruct>());
        break;
      case capnp::PointerType::LIST: {
        const capnp::AnyList::Reader list = pointer.getAs<capnp::AnyList>();
        switch (list.getElementSize()) {
          case capnp::ElementSize::POINTER:
            for (const auto element : list.as<capnp::List<capnp::AnyPointer>>()) {
              seen += Walk(element);
            }
            break;
          case capnp::ElementSize::INLINE_COMPOSITE:
            for (const auto element : list.as<capnp::List<capnp::AnyStruct>>()) {
              seen += Walk(element);
            }
            break;
          default:
            for (const kj::byte byte : list.getRawBytes()) seen += byte != 0;
        }
        break;
      }
      case capnp::PointerType::CAPABILITY:
        break;
    }
  } catch (const kj::Exception&) {
  }
  return seen;
}

template <typename Read>
void Try(Read read) {
  try {
    read();
  } catch (const kj::Exception&) {
  }
}

// The text of what `read` reads; nothing when it is malformed.
template <typename Read>
std::optional<std::string> TextOf(Read read) {
  try {
    return std::string(kj::str(read()).cStr());
  } catch (const kj::Exception&) {
    return std::nullopt;
  }
}

// A root read the short way (Body) is the one that Cap'n Proto's own reader finds.
void CheckBody(const IncomingMessage& message, const Limits& limits) {
  Body body;
  const auto quick = TextOf([&] { return body.Root<protocol::Hello>(message, limits); });
  BodyReader reader(message, limits);
  const auto plain = TextOf([&] { return reader.getRoot<protocol::Hello>(); });
  MI7_CHECK(quick == plain, "Body and BodyReader read the same");
}

// The status of a failed call, as a client gets it. Returns the size of its text and details.
size_t CheckError(const IncomingMessage& message, const Limits& limits) {
  const absl::Status status = DecodeError(message, limits);
  const int code = message.header().code;
  MI7_CHECK(static_cast<int>(status.code()) == (code <= 16 ? code : 2), "the code is the header's");
  size_t seen = status.message().size();
  status.ForEachPayload([&seen](absl::string_view url, const absl::Cord& payload) {
    seen += url.size() + payload.size();
  });
  const CallOutcome outcome = OutcomeOf(status);
  MI7_CHECK(outcome == CallOutcome::kAnswered || outcome == CallOutcome::kRefused,
            "a server cannot say of a call that it was not sent, or lost");
  MI7_CHECK(status.GetPayload(kOutcomePayload).has_value() == (outcome == CallOutcome::kRefused),
            "what became of the call is for the receiver to say");
  return seen;
}

// What came of reading metadata: sound and within the limits, or the right failure. Returns its
// size.
size_t CheckRead(const absl::Status& read, const Metadata& metadata, const Limits& limits) {
  MI7_CHECK(read.ok() || absl::IsInvalidArgument(read) || absl::IsResourceExhausted(read),
            "a malformed extra part is the sender's fault");
  size_t seen = 0;
  for (const Metadata::Entry& entry : metadata.entries()) {
    seen += entry.key.size() + entry.value.size();
  }
  MI7_CHECK(seen <= limits.extra_bytes_max, "no more is kept than the limit allows");
  MI7_CHECK(!read.ok() || CheckMetadata(metadata, limits).ok(), "what is delivered is sound");
  return seen;
}

// The extra part of a call or a return, as rpc reads it.
size_t CheckExtra(const IncomingMessage& message, const Limits& limits) {
  if (message.header().type == FrameType::kCall) {
    CallExtra extra;
    const absl::Status read = DecodeCallExtra(message, limits, extra);
    if (extra.trace != nullptr) {
      MI7_CHECK(TraceContext::Parse(extra.trace->traceparent(), extra.trace->state) == *extra.trace,
                "a trace context that is delivered is sound");
    }
    return CheckRead(read, extra.metadata, limits);
  }
  ResponseMetadata metadata;
  const absl::Status read = DecodeResponseMetadata(message, limits, metadata);
  MI7_CHECK(read.ok() || metadata.empty(), "a malformed extra part yields nothing");
  return CheckRead(read, metadata.initial, limits) + CheckRead(read, metadata.trailing, limits);
}

// The stream as it arrives.
class Arrival {
 public:
  Arrival(std::span<const uint8_t> stream, const std::function<size_t(size_t)>& piece)
      : stream_(stream), piece_(piece) {}
  bool done() const { return stream_.empty(); }
  size_t Read(std::span<std::byte> space) {
    const size_t bytes = std::min({piece_(stream_.size()), stream_.size(), space.size()});
    MI7_CHECK(bytes > 0, "a piece has at least one byte, and there is room for it");
    std::memcpy(space.data(), stream_.data(), bytes);
    stream_ = stream_.subspan(bytes);
    return bytes;
  }

 private:
  std::span<const uint8_t> stream_;
  const std::function<size_t(size_t)>& piece_;
};

// A message that is held for a while, with a copy of what it said.
struct Held {
  IncomingMessage message;
  std::string said;
};

std::string Said(const IncomingMessage& message) {
  std::string said(reinterpret_cast<const char*>(message.extra().data()), message.extra().size());
  for (const IncomingMessage::Segment& segment : message.segments()) {
    said.append(reinterpret_cast<const char*>(segment.begin()), segment.size() * 8);
  }
  return said;
}

}  // namespace

bool operator==(const Outcome& a, const Outcome& b) {
  return a.kind == b.kind && a.code == b.code &&
         std::memcmp(&a.header, &b.header, sizeof(a.header)) == 0;
}

size_t ReadWhole(const IncomingMessage& message, const Limits& limits) {
  size_t seen = 0;
  if (message.has_body()) {
    Try([&] {
      BodyReader reader(message, limits);
      seen += Walk(reader.getRoot<capnp::AnyPointer>());
    });
    Try([&] {
      BodyReader reader(message, limits);
      capnp::MallocMessageBuilder copy;
      copy.setRoot(reader.getRoot<capnp::AnyPointer>());
      seen += copy.sizeInWords();
    });
    Try([&] {
      BodyReader reader(message, limits);
      seen += kj::str(reader.getRoot<protocol::Hello>()).size();
    });
    Try([&] {
      BodyReader reader(message, limits);
      seen += kj::str(reader.getRoot<protocol::CallExtra>()).size();
    });
  }
  if (message.has_body()) CheckBody(message, limits);
  if (message.header().type == FrameType::kReturn && message.header().code != 0) {
    seen += CheckError(message, limits);
  }
  if (message.header().type == FrameType::kCall || message.header().type == FrameType::kReturn) {
    seen += CheckExtra(message, limits);
  }
  if (message.header().type == FrameType::kGoAway) {
    const auto accepted = AcceptedIn(message, limits);
    MI7_CHECK(!accepted || accepted->size() <= message.extra().size() * 8,
              "no more is named than the message has bits");
    seen += accepted ? accepted->size() : 0;
  }
  if (message.header().type == FrameType::kClose) {
    MI7_CHECK(!transport::ReadClose(message).ok(), "the status of a close message is never OK");
  } else if (message.header().type == FrameType::kHello) {
    seen += transport::ReadHello(message).ok();
  }
  return seen;
}

std::vector<Outcome> ReceiveStream(std::span<const uint8_t> stream, const Limits& limits,
                                   const std::function<size_t(size_t left)>& piece) {
  std::vector<Outcome> outcomes;
  Arrival arrival(stream, piece);
  std::array<std::byte, transport::kOpeningBytes> opening;
  size_t opening_bytes = 0;
  while (opening_bytes < opening.size()) {
    if (arrival.done()) return outcomes;
    opening_bytes += arrival.Read(std::span(opening).subspan(opening_bytes));
    const absl::Status checked = transport::CheckOpening(std::span(opening).first(opening_bytes));
    if (!checked.ok()) {
      outcomes.push_back({Outcome::kOpening, {}, checked.code()});
      return outcomes;
    }
  }
  outcomes.push_back({Outcome::kOpening, {}, absl::StatusCode::kOk});

  Limits hello_limits = limits;
  hello_limits.message_bytes_max = transport::kHelloBytesMax;
  FrameAssembler assembler(&hello_limits);
  bool greeted = false;
  std::deque<Held> held;
  const auto release = [&held](size_t kept) {
    while (held.size() > kept) {
      MI7_CHECK(Said(held.front().message) == held.front().said,
                "a message does not change while it is held");
      held.pop_front();
    }
  };
  while (!arrival.done()) {
    const std::span<std::byte> space = assembler.Space();
    MI7_CHECK(
        space.size() <= std::max<size_t>(limits.message_bytes_max, 2 * FrameAssembler::kChunkBytes),
        "memory is within the limits, whatever a peer announces");
    assembler.Filled(arrival.Read(space));
    FrameAssembler::Received received;
    FrameAssembler::Result result;
    while ((result = assembler.Next(received)) != FrameAssembler::Result::kNeedMore) {
      if (result == FrameAssembler::Result::kBroken) {
        outcomes.push_back({Outcome::kBroken, {}, received.status.code()});
        release(0);
        return outcomes;
      }
      if (result == FrameAssembler::Result::kRejected) {
        outcomes.push_back({Outcome::kRejected, received.rejected, received.status.code()});
        if (greeted) continue;
        release(0);
        return outcomes;
      }
      IncomingMessage message = std::move(received.message);
      MI7_CHECK(CheckFrameHeader(message.header(), greeted ? limits : hello_limits).ok(),
                "only sound messages are delivered");
      if (!greeted) {
        const absl::Status hello = transport::ReadHello(message).status();
        outcomes.push_back({Outcome::kHello, message.header(), hello.code()});
        if (!hello.ok()) return outcomes;
        greeted = true;
        assembler.set_limits(&limits);
        continue;
      }
      ReadWhole(message, limits);
      const bool closed = message.header().type == FrameType::kClose;
      outcomes.push_back(
          {closed ? Outcome::kClosed : Outcome::kMessage, message.header(), absl::StatusCode::kOk});
      held.push_back({std::move(message), ""});
      held.back().said = Said(held.back().message);
      release(closed ? 0 : 3);
      if (closed) return outcomes;
    }
    assembler.ReleaseIdle();
  }
  release(0);
  return outcomes;
}

}  // namespace mi7::fuzz
