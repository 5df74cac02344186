#pragma once

// For tests of the runtime without generated code: services made of lambdas, and messages written
// and read by hand. Parameters and results are protocol.capnp's MetadataEntry, of which the key is
// used.

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "rpc/error_codec.h"
#include "rpc/interface_info.h"
#include "rpc/message_reader.h"
#include "rpc/reply.h"
#include "rpc/server_call.h"
#include "rpc/service.h"
#include "schema/protocol.capnp.h"
#include "transport/buffer_pool.h"
#include "transport/message.h"

namespace mi7 {

using TestMessage = protocol::MetadataEntry;

// interface Base { ping @0; }
// interface Derived extends Base { get @0; put @1; }
// interface Other extends Base { run @0; }
inline constexpr uint64_t kBaseId = 0xb000000000000001;
inline constexpr uint64_t kDerivedId = 0xd000000000000002;
inline constexpr uint64_t kOtherId = 0xe000000000000003;
inline constexpr MethodInfo kBaseMethods[] = {{kBaseId, 0, "Base.ping"}};
inline constexpr InterfaceInfo kBaseInfo = {kBaseId, "Base", kBaseMethods, 1, nullptr, 0};
inline constexpr const InterfaceInfo* kOnBase[] = {&kBaseInfo};
inline constexpr MethodInfo kDerivedMethods[] = {{kDerivedId, 0, "Derived.get"},
                                                 {kDerivedId, 1, "Derived.put"}};
inline constexpr InterfaceInfo kDerivedInfo = {kDerivedId, "Derived", kDerivedMethods,
                                               2,          kOnBase,   1};
inline constexpr MethodInfo kOtherMethods[] = {{kOtherId, 0, "Other.run"}};
inline constexpr InterfaceInfo kOtherInfo = {kOtherId, "Other", kOtherMethods, 1, kOnBase, 1};

// Answers every call with `handler`, which is given the ids that were dispatched.
class LambdaService final : public Service {
 public:
  using Handler = std::function<Reply(uint64_t interface_id, uint16_t method_id, ServerCall&)>;
  LambdaService(const InterfaceInfo& info, Handler handler)
      : info_(info), handler_(std::move(handler)) {}
  const InterfaceInfo& interface_info() const override { return info_; }
  Reply Dispatch(uint64_t interface_id, uint16_t method_id, ServerCall& call) override {
    return handler_(interface_id, method_id, call);
  }

 private:
  const InterfaceInfo& info_;
  const Handler handler_;
};

// A handler that sends back the key that it got.
inline Reply EchoKey(ServerCall& call) {
  call.Results<TestMessage>().setKey(call.Params<TestMessage>().getKey());
  return absl::OkStatus();
}

inline transport::OutgoingMessage MakeCall(uint32_t call_id, uint64_t service_id,
                                           uint64_t interface_id, uint16_t method_id,
                                           const char* key = "key") {
  transport::OutgoingMessage message = transport::NewHeapMessage(64);
  message->header.type = transport::FrameType::kCall;
  message->header.target = transport::TargetKind::kService;
  message->header.call_id = call_id;
  message->header.code = method_id;
  message->header.interface_id = interface_id;
  message->header.target_id = ServiceKey(service_id);
  message->initRoot<TestMessage>().setKey(key);
  return message;
}

inline transport::OutgoingMessage MakeReturn(uint32_t call_id, const char* key = "key") {
  transport::OutgoingMessage message = transport::NewHeapMessage(64);
  message->header.type = transport::FrameType::kReturn;
  message->header.call_id = call_id;
  message->initRoot<TestMessage>().setKey(key);
  return message;
}

inline transport::OutgoingMessage MakeControl(transport::FrameType type, uint32_t call_id = 0) {
  transport::OutgoingMessage message = transport::NewHeapMessage(0);
  message->header.type = type;
  message->header.call_id = call_id;
  message->has_body = false;
  return message;
}

// A message as it was received, whose extra part and body are `words`. The body's first word is its
// segment table; {0, words - 1} for one segment is 0x0000000n00000000.
inline transport::IncomingMessage MakeReceived(transport::FrameHeader header,
                                               const std::vector<uint64_t>& words) {
  const size_t bytes = words.size() * sizeof(words[0]);
  header.size = static_cast<uint32_t>(transport::kFrameHeaderBytes + bytes);
  transport::BufferRef buffer = transport::BufferPool::Allocate(bytes);
  std::memcpy(buffer->data(), words.data(), bytes);
  const std::span<const std::byte> rest(buffer->data(), bytes);
  return *transport::ParseMessage(header, rest, buffer.release(), 0, {});
}

// A body whose root struct has one pointer: to a list that lies a million words beyond the end.
inline const std::vector<uint64_t> kBodyWithPointerBeyondTheEnd = {
    0x0000000200000000, 0x0001000000000000, 1 | (uint64_t{1'000'000} << 2) | (uint64_t{2} << 32)};

// What a received return says: the status of the call.
inline absl::Status ReturnStatus(const transport::IncomingMessage& message) {
  if (message.header().type != transport::FrameType::kReturn) {
    return absl::InternalError("not a return");
  }
  return message.header().code == 0 ? absl::OkStatus() : DecodeError(message, {});
}

inline std::string KeyIn(const transport::IncomingMessage& message) {
  BodyReader reader(message, {});
  return reader.getRoot<TestMessage>().getKey();
}

}  // namespace mi7
