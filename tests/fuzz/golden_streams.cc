#include "tests/fuzz/golden_streams.h"

#include <span>
#include <utility>

#include <capnp/any.h>
#include <capnp/message.h>
#include <capnp/serialize.h>

#include "base/check.h"
#include "base/limits.h"
#include "schema/protocol.capnp.h"
#include "transport/handshake.h"
#include "transport/message.h"

namespace mi7::fuzz {
namespace {

using transport::FrameType;
using transport::NewHeapMessage;
using transport::OutgoingMessage;
using transport::TargetKind;

void Append(const OutgoingMessage& message, GoldenStream& stream) {
  transport::PieceList pieces;
  MI7_CHECK(FinishHeapMessage(*message, Limits{}, pieces).ok(), "golden messages are sound");
  for (const transport::ByteSpan& piece : pieces) {
    const auto* const bytes = reinterpret_cast<const uint8_t*>(piece.data);
    stream.bytes.insert(stream.bytes.end(), bytes, bytes + piece.size);
  }
  ++stream.message_count;
}

GoldenStream Greeting(std::string name) {
  GoldenStream stream{std::move(name), {}, 0};
  stream.bytes.assign(transport::kOpening.begin(), transport::kOpening.end());
  const std::byte instance_id[16] = {std::byte{1}, std::byte{2}, std::byte{3}};
  Append(transport::MakeHello(Limits{}, instance_id), stream);
  stream.message_count = 0;
  return stream;
}

OutgoingMessage Bare(FrameType type, uint32_t call_id) {
  OutgoingMessage message = NewHeapMessage(0);
  message->header.type = type;
  message->header.call_id = call_id;
  message->has_body = false;
  return message;
}

OutgoingMessage Call(size_t bytes) {
  OutgoingMessage message = NewHeapMessage(bytes);
  message->header.type = FrameType::kCall;
  message->header.target = TargetKind::kService;
  message->header.code = 3;
  message->header.call_id = 1;
  message->header.timeout = 1'000'000;
  message->header.interface_id = 0x8F5AD1CE2B7C6D01;
  message->header.target_id = 1;
  return message;
}

void SetExtra(capnp::MessageBuilder& extra, transport::MessageBody& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(extra);
  message.SetExtra(std::as_bytes(std::span(words.begin(), words.size())));
}

// A struct with everything a struct can have: data, text, lists of structs, of pointers, of bits.
void FillBody(transport::MessageBody& message) {
  auto extra = message.initRoot<protocol::CallExtra>();
  auto metadata = extra.initMetadata(2);
  metadata[0].setKey("trace-id");
  metadata[0].getValue().setText("0123456789");
  metadata[1].setKey("blob-bin");
  metadata[1].getValue().setBinary(kj::StringPtr("\x01\x02\x03").asBytes());
  auto capabilities = extra.initCapabilities(2);
  capabilities[0].setSenderHosted(7);
  capabilities[1].initPromisedAnswer().setPath({1, 2, 3});
  extra.initTraceContext().setTraceparent(
      "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
}

}  // namespace

std::vector<GoldenStream> GoldenStreams() {
  std::vector<GoldenStream> streams;
  streams.push_back(Greeting("hello"));

  GoldenStream call = Greeting("call");
  OutgoingMessage message = Call(200);
  FillBody(*message);
  Append(message, call);
  streams.push_back(std::move(call));

  GoldenStream with_extra = Greeting("call_with_extra");
  message = Call(64);
  message->getRoot<capnp::AnyPointer>().setAs<capnp::Text>("hello, world");
  {
    capnp::MallocMessageBuilder builder;
    auto extra = builder.initRoot<protocol::CallExtra>();
    auto metadata = extra.initMetadata(2);
    metadata[0].setKey("user");
    metadata[0].getValue().setText("somebody");
    metadata[1].setKey("blob");
    metadata[1].getValue().setBinary(kj::StringPtr("\xff\x01").asBytes());
    auto trace = extra.initTraceContext();
    trace.setTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    trace.setTracestate("vendor=opaque");
    SetExtra(builder, *message);
  }
  Append(message, with_extra);
  streams.push_back(std::move(with_extra));

  GoldenStream segments = Greeting("segments");
  message = Call(0);
  auto list = message->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::Data>>(4);
  static const std::vector<capnp::word> outside(6);
  for (uint32_t i = 0; i < 4; ++i) {
    const capnp::Data::Reader part(reinterpret_cast<const kj::byte*>(outside.data()), 8 * (i + 1));
    list.adopt(i, message->getOrphanage().referenceExternalData(part));
  }
  Append(message, segments);
  streams.push_back(std::move(segments));

  GoldenStream answers = Greeting("answers");
  message = NewHeapMessage(0);
  message->header.type = FrameType::kReturn;
  message->header.call_id = 1;
  message->getRoot<capnp::AnyPointer>().initAs<capnp::List<capnp::List<uint16_t>>>(3).init(1, 5);
  Append(message, answers);
  message = NewHeapMessage(0);
  message->header.type = FrameType::kReturn;
  message->header.call_id = 3;
  message->getRoot<capnp::AnyPointer>().initAs<capnp::List<uint8_t>>(3);
  {
    capnp::MallocMessageBuilder builder;
    auto extra = builder.initRoot<protocol::ReturnExtra>();
    auto initial = extra.initInitialMetadata(1)[0];
    initial.setKey("server");
    initial.getValue().setText("7");
    auto trailing = extra.initTrailingMetadata(1)[0];
    trailing.setKey("cost");
    trailing.getValue().setBinary(kj::StringPtr("\x2a").asBytes());
    SetExtra(builder, *message);
  }
  Append(message, answers);
  message = NewHeapMessage(0);
  message->header.type = FrameType::kReturn;
  message->header.call_id = 2;
  message->header.code = 5;
  message->has_body = false;
  {
    capnp::MallocMessageBuilder extra;
    auto root = extra.initRoot<protocol::ReturnExtra>();
    auto trailing = root.initTrailingMetadata(1)[0];
    trailing.setKey("cost");
    trailing.getValue().setText("7");
    auto error = root.initError();
    error.setMessage("no such file");
    error.setRefused(true);
    auto details = error.initDetails(1);
    details[0].setType("type.example/detail");
    details[0].setValue(kj::StringPtr("detail").asBytes());
    SetExtra(extra, *message);
  }
  Append(message, answers);
  Append(Bare(FrameType::kPong, 9), answers);
  Append(Bare(FrameType::kGoAway, 0), answers);
  message = Bare(FrameType::kGoAway, 0);
  {
    capnp::MallocMessageBuilder extra;
    auto root = extra.initRoot<protocol::GoAwayExtra>();
    root.setNamesAccepted(true);
    auto accepted = root.initAccepted(25);
    accepted[0] = 0x11;  // ids 0 and 4
    accepted[24] = 0x80;
    SetExtra(extra, *message);
  }
  Append(message, answers);
  Append(transport::MakeClose(absl::UnavailableError("shutting down")), answers);
  streams.push_back(std::move(answers));

  GoldenStream control = Greeting("control");
  Append(Bare(FrameType::kPing, 5), control);
  Append(Bare(FrameType::kCancel, 1), control);
  message = Call(0);
  message->header.target = TargetKind::kPromisedAnswer;
  message->header.timeout = 0x80000010;
  Append(message, control);
  Append(Bare(FrameType::kCancel, 1), control);
  streams.push_back(std::move(control));

  GoldenStream in_both_directions = Greeting("stream_frames");
  for (const uint16_t direction : {0, 1}) {
    message = NewHeapMessage(64);
    message->header.type = FrameType::kStreamMessage;
    message->header.call_id = 1;
    message->header.code = direction;
    message->getRoot<capnp::AnyPointer>().setAs<capnp::Text>("one of many");
    if (direction == 1) {
      capnp::MallocMessageBuilder extra;
      auto metadata = extra.initRoot<protocol::CallExtra>().initMetadata(1);
      metadata[0].setKey("server");
      metadata[0].getValue().setText("first");
      SetExtra(extra, *message);
    }
    Append(message, in_both_directions);
    message = Bare(FrameType::kCredit, 1);
    message->header.code = direction;
    message->header.timeout = 70'000;
    Append(message, in_both_directions);
  }
  Append(Bare(FrameType::kStreamEnd, 1), in_both_directions);
  streams.push_back(std::move(in_both_directions));

  // Larger than the buffer that small messages are received into, and others around it.
  GoldenStream large = Greeting("large");
  Append(Bare(FrameType::kPing, 1), large);
  message = Call(70'000);
  message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(70'000);
  Append(message, large);
  Append(Bare(FrameType::kPing, 2), large);
  streams.push_back(std::move(large));
  return streams;
}

}  // namespace mi7::fuzz
