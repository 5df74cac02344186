#pragma once

// A peer that writes whatever bytes it likes: a plain socket, and mi7's messages put together by
// hand from docs/WIRE.md.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "transport/connection.h"
#include "transport/frame.h"

namespace mi7::badpeer {

using transport::FrameHeader;
using transport::FrameType;
using Words = std::vector<uint64_t>;

// --- Bytes ---

// The 8 bytes that open a connection.
std::string Opening(uint8_t major = 1);
// Opening and Hello of a sound client or server.
std::string Greeting();
// A Hello message that speaks these versions and has these features, streams with a window of 1
// MiB. `instance`: each byte of its instanceId; 0: none.
std::string Hello(uint16_t version_min = 1, uint16_t version_max = 1,
                  uint64_t features = transport::kFeaturesOfAll, uint8_t instance = 7);
// Header and rest as they are, header.size included.
std::string Exactly(const FrameHeader& header, const Words& rest = {});
// Header and rest, with header.size filled in.
std::string Message(FrameHeader header, const Words& rest = {});
// The same again and again.
std::string Times(uint32_t count, const std::string& bytes);

// Header of a call of Probe.echo or Probe.hold (tests/conformance/call/probe.capnp).
FrameHeader EchoHeader(uint32_t call_id);
FrameHeader HoldHeader(uint32_t call_id);
FrameHeader ReturnHeader(uint32_t call_id);
FrameHeader ControlHeader(FrameType type, uint32_t call_id = 0);
// Header of a StreamMessage or a Credit; `direction` as transport::StreamDirection has it, `bytes`
// of credit.
FrameHeader StreamHeader(FrameType type, uint32_t call_id, uint16_t direction, uint32_t bytes = 0);
// Header of a call of a stream of Feed (tests/conformance/call/feed.capnp).
enum class FeedMethod : uint16_t { kWatch = 0, kUpload = 1, kChat = 2 };
FrameHeader FeedHeader(uint32_t call_id, FeedMethod method);
// A body of one segment.
Words Body(const Words& segment);
// Results of once.
Words OnceResults(uint32_t run);
// A sound body for echo's parameters and results: the text is "hello".
Words EchoBody();
// Whole messages. The stream's is an empty struct, the smallest that there is.
std::string SmallStreamMessage(uint32_t call_id, uint16_t direction = 0);
inline constexpr uint32_t kSmallStreamMessageBytes = 32 + 8 + 8;
// As large, and no message of Cap'n Proto's.
std::string MalformedStreamMessage(uint32_t call_id, uint16_t direction = 0);
// Its parameters are an empty struct.
std::string FeedCall(uint32_t call_id, FeedMethod method);
std::string EchoCall(uint32_t call_id);
std::string HoldCall(uint32_t call_id);
// A return that refuses the call: UNAVAILABLE, and the promise that it has not run.
std::string Refusal(uint32_t call_id);
// A Close that says why.
std::string Close(absl::string_view why);
// A GoAway that names calls as accepted.
std::string GoAwayNaming(const std::vector<uint32_t>& call_ids);

// --- A socket ---

struct Received {
  FrameHeader header;
  std::string rest;  // extra and body
  // What the message says: a close's or return's code and text.
  absl::Status status() const;
  // Whether its ErrorInfo says that the call was refused.
  bool refused() const;
  // The text in the results of an echo.
  std::string text() const;
};

// A connected TCP socket; blocking, with 20 s of patience. Move-only.
class RawPeer {
 public:
  RawPeer() = default;
  explicit RawPeer(int fd) : fd_(fd) {}
  RawPeer(RawPeer&& other) noexcept;
  RawPeer& operator=(RawPeer&& other) noexcept;
  ~RawPeer();

  // Connects to "tcp:127.0.0.1:port" without a word. `receive_buffer`: bytes; 0 for the system's.
  static RawPeer ConnectTo(const std::string& endpoint, int receive_buffer = 0);
  // Connects and shakes hands as a sound client does.
  static RawPeer Greeted(const std::string& endpoint, int receive_buffer = 0);

  // False when the other side has closed.
  bool Send(const std::string& bytes);
  // Sends until the other side takes nothing more for `patience_ms`; the number of bytes taken.
  size_t SendUntilBlocked(const std::string& bytes, int patience_ms);
  // Reads exactly `bytes`, or less when the other side ends.
  std::string Read(size_t bytes);
  // The next message; nothing when the connection ended.
  std::optional<Received> ReadMessage();
  // The next message of this type, others are skipped.
  std::optional<Received> ReadMessageOf(FrameType type);
  // Reads the other side's opening and Hello.
  bool ReadGreeting();
  // Whether the other side ends the connection, after whatever it still sends.
  bool Ends();
  // Whether bytes are there to be read, or the end, within `patience_ms`.
  bool Readable(int patience_ms) const;

  void CloseSending();
  // Ends with RST.
  void Reset();
  void Close();

 private:
  int fd_ = -1;
};

// A listening TCP socket on 127.0.0.1.
class RawListener {
 public:
  RawListener();
  ~RawListener();
  RawListener(const RawListener&) = delete;
  RawListener& operator=(const RawListener&) = delete;
  std::string endpoint() const;
  // Waits for a connection. Send buffer as RawPeer's receive_buffer.
  RawPeer Accept(int receive_buffer = 0);
  // Accepts and shakes hands as a sound server does, or with another Hello.
  RawPeer AcceptGreeted(int receive_buffer = 0, const std::string& hello = Hello());

 private:
  int fd_ = -1;
  uint16_t port_ = 0;
};

// Bytes of memory that this process has in use (resident). Always 0 under a sanitizer, which keeps
// freed memory and notes of its own.
size_t ResidentBytes();

}  // namespace mi7::badpeer
