#include "tests/badpeer/raw_peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <capnp/message.h>
#include <capnp/serialize.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "rpc/interface_info.h"
#include "schema/protocol.capnp.h"
#include "tests/conformance/call/feed.mi7.h"
#include "tests/conformance/call/probe.mi7.h"

namespace mi7::badpeer {
namespace {

constexpr int kPatienceMs = 40'000;

std::string Bytes(const void* data, size_t size) {
  return std::string(static_cast<const char*>(data), size);
}

Words MessageWords(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> flat = capnp::messageToFlatArray(message);
  Words words(flat.size());
  std::memcpy(words.data(), flat.begin(), flat.asBytes().size());
  return words;
}

void SetReceiveBuffer(int fd, int bytes) {
  if (bytes == 0) return;
  ::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

std::string Opening(uint8_t major) {
  return std::string("\xD7mi7", 4) + static_cast<char>(major) + std::string(3, '\0');
}

std::string Greeting() { return Opening() + Hello(); }

std::string Hello(uint16_t version_min, uint16_t version_max, uint64_t features, uint8_t instance) {
  capnp::MallocMessageBuilder builder;
  auto hello = builder.initRoot<protocol::Hello>();
  hello.setVersionMin(version_min);
  hello.setVersionMax(version_max);
  hello.setMessageBytesMax(64u << 20);
  hello.setCallsInFlightMax(65'536);
  hello.setFeatures(features);
  hello.setStreamWindowBytes(1u << 20);
  hello.setImplementation("badpeer");
  if (instance != 0) {
    for (kj::byte& byte : hello.initInstanceId(16)) byte = instance;
  }
  return Message(ControlHeader(FrameType::kHello), MessageWords(builder));
}

std::string Exactly(const FrameHeader& header, const Words& rest) {
  return Bytes(&header, sizeof(header)) + Bytes(rest.data(), rest.size() * sizeof(rest[0]));
}

std::string Message(FrameHeader header, const Words& rest) {
  header.size = static_cast<uint32_t>(sizeof(header) + rest.size() * sizeof(rest[0]));
  return Exactly(header, rest);
}

std::string Times(uint32_t count, const std::string& bytes) {
  std::string all;
  for (uint32_t i = 0; i < count; ++i) all += bytes;
  return all;
}

namespace {

FrameHeader CallHeader(uint32_t call_id, uint64_t interface_id, uint16_t method) {
  FrameHeader header;
  header.type = FrameType::kCall;
  header.target = transport::TargetKind::kService;
  header.code = method;
  header.call_id = call_id;
  header.interface_id = interface_id;
  header.target_id = ServiceKey(interface_id);
  return header;
}

}  // namespace

FrameHeader EchoHeader(uint32_t call_id) {
  return CallHeader(call_id, conformance::ProbeService::info().id, 0);
}

FrameHeader HoldHeader(uint32_t call_id) {
  return CallHeader(call_id, conformance::ProbeService::info().id, 1);
}

FrameHeader FeedHeader(uint32_t call_id, FeedMethod method) {
  return CallHeader(call_id, conformance::FeedService::info().id, static_cast<uint16_t>(method));
}

FrameHeader ReturnHeader(uint32_t call_id) { return ControlHeader(FrameType::kReturn, call_id); }

FrameHeader ControlHeader(FrameType type, uint32_t call_id) {
  FrameHeader header;
  header.type = type;
  header.call_id = call_id;
  return header;
}

FrameHeader StreamHeader(FrameType type, uint32_t call_id, uint16_t direction, uint32_t bytes) {
  FrameHeader header = ControlHeader(type, call_id);
  header.code = direction;
  header.timeout = bytes;
  return header;
}

Words Body(const Words& segment) {
  Words words = {uint64_t{segment.size()} << 32};
  words.insert(words.end(), segment.begin(), segment.end());
  return words;
}

Words OnceResults(uint32_t run) {
  capnp::MallocMessageBuilder builder;
  builder.initRoot<conformance::Probe::OnceResults>().setRun(run);
  return MessageWords(builder);
}

Words EchoBody() {
  capnp::MallocMessageBuilder builder;
  builder.initRoot<conformance::Probe::EchoParams>().setText("hello");
  return MessageWords(builder);
}

std::string SmallStreamMessage(uint32_t call_id, uint16_t direction) {
  return Message(StreamHeader(FrameType::kStreamMessage, call_id, direction), Body({0}));
}
std::string MalformedStreamMessage(uint32_t call_id, uint16_t direction) {
  return Message(StreamHeader(FrameType::kStreamMessage, call_id, direction),
                 {~uint64_t{0}, ~uint64_t{0}});
}
std::string FeedCall(uint32_t call_id, FeedMethod method) {
  return Message(FeedHeader(call_id, method), Body({0}));
}
std::string EchoCall(uint32_t call_id) { return Message(EchoHeader(call_id), EchoBody()); }

std::string HoldCall(uint32_t call_id) {
  capnp::MallocMessageBuilder builder;
  builder.initRoot<conformance::Probe::HoldParams>().setNumber(call_id);
  return Message(HoldHeader(call_id), MessageWords(builder));
}

std::string Refusal(uint32_t call_id) {
  capnp::MallocMessageBuilder builder;
  auto error = builder.initRoot<protocol::ReturnExtra>().initError();
  error.setMessage("going away");
  error.setRefused(true);
  const Words extra = MessageWords(builder);
  FrameHeader header = ReturnHeader(call_id);
  header.code = static_cast<uint16_t>(absl::StatusCode::kUnavailable);
  header.extra_size = static_cast<uint32_t>(extra.size() * sizeof(extra[0]));
  return Message(header, extra);
}

std::string Close(absl::string_view why) {
  capnp::MallocMessageBuilder builder;
  builder.initRoot<protocol::ErrorInfo>().setMessage(std::string(why));
  const Words extra = MessageWords(builder);
  FrameHeader header = ControlHeader(FrameType::kClose);
  header.code = static_cast<uint16_t>(absl::StatusCode::kUnavailable);
  header.extra_size = static_cast<uint32_t>(extra.size() * sizeof(extra[0]));
  return Message(header, extra);
}

std::string GoAwayNaming(const std::vector<uint32_t>& call_ids) {
  capnp::MallocMessageBuilder builder;
  auto root = builder.initRoot<protocol::GoAwayExtra>();
  root.setNamesAccepted(true);
  auto accepted = root.initAccepted(*std::max_element(call_ids.begin(), call_ids.end()) / 8 + 1);
  for (const uint32_t id : call_ids) accepted[id / 8] |= static_cast<uint8_t>(1u << id % 8);
  const Words extra = MessageWords(builder);
  FrameHeader header = ControlHeader(FrameType::kGoAway);
  header.extra_size = static_cast<uint32_t>(extra.size() * sizeof(extra[0]));
  return Message(header, extra);
}

namespace {

// The words of a part of a received message, aligned.
kj::Array<capnp::word> Aligned(const std::string& bytes, size_t from, size_t size) {
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>(size / sizeof(capnp::word));
  std::memcpy(words.begin(), bytes.data() + from, size);
  return words;
}

}  // namespace

absl::Status Received::status() const {
  const auto code = static_cast<absl::StatusCode>(header.code);
  if (header.extra_size == 0) return absl::Status(code, "");
  const auto words = Aligned(rest, 0, header.extra_size);
  capnp::FlatArrayMessageReader reader(words);
  const auto text = header.type == FrameType::kClose
                        ? reader.getRoot<protocol::ErrorInfo>().getMessage()
                        : reader.getRoot<protocol::ReturnExtra>().getError().getMessage();
  return absl::Status(code, text.cStr());
}

bool Received::refused() const {
  if (header.extra_size == 0) return false;
  const auto words = Aligned(rest, 0, header.extra_size);
  capnp::FlatArrayMessageReader reader(words);
  return reader.getRoot<protocol::ReturnExtra>().getError().getRefused();
}

std::string Received::text() const {
  const auto words = Aligned(rest, header.extra_size, rest.size() - header.extra_size);
  capnp::FlatArrayMessageReader reader(words);
  return reader.getRoot<conformance::Probe::EchoResults>().getText();
}

RawPeer::RawPeer(RawPeer&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
RawPeer& RawPeer::operator=(RawPeer&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}
RawPeer::~RawPeer() { Close(); }

RawPeer RawPeer::ConnectTo(const std::string& endpoint, int receive_buffer) {
  uint32_t port = 0;
  MI7_CHECK(absl::SimpleAtoi(endpoint.substr(endpoint.rfind(':') + 1), &port), "has a port");
  RawPeer peer(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SetReceiveBuffer(peer.fd_, receive_buffer);
  const sockaddr_in address = Loopback(static_cast<uint16_t>(port));
  MI7_CHECK(::connect(peer.fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0,
            "the server listens");
  const int on = 1;
  ::setsockopt(peer.fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return peer;
}

RawPeer RawPeer::Greeted(const std::string& endpoint, int receive_buffer) {
  RawPeer peer = ConnectTo(endpoint, receive_buffer);
  peer.Send(Greeting());
  MI7_CHECK(peer.ReadGreeting(), "a sound client is welcome");
  return peer;
}

bool RawPeer::Send(const std::string& bytes) {
  size_t at = 0;
  pollfd descriptor{fd_, POLLOUT, 0};
  while (at < bytes.size()) {
    if (::poll(&descriptor, 1, kPatienceMs) != 1) return false;
    const ssize_t sent =
        ::send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) return false;
    if (sent > 0) at += static_cast<size_t>(sent);
  }
  return true;
}

size_t RawPeer::SendUntilBlocked(const std::string& bytes, int patience_ms) {
  size_t at = 0;
  pollfd descriptor{fd_, POLLOUT, 0};
  while (at < bytes.size() && ::poll(&descriptor, 1, patience_ms) == 1) {
    const ssize_t sent =
        ::send(fd_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) break;
    if (sent > 0) at += static_cast<size_t>(sent);
  }
  return at;
}

bool RawPeer::Readable(int patience_ms) const {
  pollfd descriptor{fd_, POLLIN, 0};
  return ::poll(&descriptor, 1, patience_ms) == 1;
}

std::string RawPeer::Read(size_t bytes) {
  std::string all(bytes, '\0');
  size_t at = 0;
  while (at < bytes && Readable(kPatienceMs)) {
    const ssize_t got = ::recv(fd_, all.data() + at, bytes - at, 0);
    if (got <= 0) break;
    at += static_cast<size_t>(got);
  }
  all.resize(at);
  return all;
}

std::optional<Received> RawPeer::ReadMessage() {
  Received received;
  const std::string bytes = Read(sizeof(received.header));
  if (bytes.size() != sizeof(received.header)) return std::nullopt;
  std::memcpy(&received.header, bytes.data(), bytes.size());
  MI7_CHECK(transport::CheckFrameHeader(received.header, {}).ok(), "mi7 sends sound headers");
  received.rest = Read(received.header.size - bytes.size());
  if (received.rest.size() != received.header.size - bytes.size()) return std::nullopt;
  return received;
}

std::optional<Received> RawPeer::ReadMessageOf(FrameType type) {
  for (;;) {
    std::optional<Received> received = ReadMessage();
    if (!received || received->header.type == type) return received;
  }
}

bool RawPeer::ReadGreeting() {
  if (Read(8) != Opening()) return false;
  const std::optional<Received> hello = ReadMessage();
  return hello && hello->header.type == FrameType::kHello;
}

bool RawPeer::Ends() {
  char part[65536];
  while (Readable(kPatienceMs)) {
    if (::recv(fd_, part, sizeof(part), 0) <= 0) return true;
  }
  return false;
}

void RawPeer::CloseSending() { ::shutdown(fd_, SHUT_WR); }

void RawPeer::Reset() {
  const linger now{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  Close();
}

void RawPeer::Close() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

RawListener::RawListener() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof(address);
  MI7_CHECK(::bind(fd_, reinterpret_cast<const sockaddr*>(&address), length) == 0 &&
                ::listen(fd_, 16) == 0 &&
                ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length) == 0,
            "a loopback port can be listened on");
  port_ = ntohs(address.sin_port);
}

RawListener::~RawListener() { ::close(fd_); }

std::string RawListener::endpoint() const { return absl::StrCat("tcp:127.0.0.1:", port_); }

RawPeer RawListener::Accept(int receive_buffer) {
  SetReceiveBuffer(fd_, receive_buffer);
  pollfd descriptor{fd_, POLLIN, 0};
  MI7_CHECK(::poll(&descriptor, 1, kPatienceMs) == 1, "the channel connects");
  return RawPeer(::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC));
}

RawPeer RawListener::AcceptGreeted(int receive_buffer, const std::string& hello) {
  RawPeer peer = Accept(receive_buffer);
  MI7_CHECK(peer.ReadGreeting(), "a channel greets");
  peer.Send(Opening() + hello);
  return peer;
}

size_t ResidentBytes() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 0;
#endif
  size_t total = 0, resident = 0;
  FILE* const file = ::fopen("/proc/self/statm", "r");
  MI7_CHECK(file != nullptr && ::fscanf(file, "%zu %zu", &total, &resident) == 2, "Linux");
  ::fclose(file);
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace mi7::badpeer
