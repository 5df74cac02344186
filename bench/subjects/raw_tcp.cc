// Subject "raw_tcp": framed ping-pong, one call outstanding, over a bare socket. The limit for a
// call whose caller waits for each answer: per side and call one recv (more while spinning) and one
// send; the length is looked at, the frame is answered from the buffer it was read into.

#include <array>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/raw_frame.h"
#include "bench/subjects/raw_socket.h"

namespace mi7::bench {
namespace {

using Buffer = std::array<char, kRawFrameMax>;

// Reads exactly one frame; the peer sends no second one before it is answered.
absl::StatusOr<size_t> ReadFrame(RawSocket& socket, Buffer& buffer) {
  size_t have = 0;
  for (;;) {
    const absl::StatusOr<size_t> got = socket.Read(buffer.data() + have, buffer.size() - have);
    if (!got.ok()) return got.status();
    have += *got;
    if (have < kRawFrameMin) continue;
    const size_t length = LoadHead(buffer.data()).length_bytes;
    if (length < kRawFrameMin || length > buffer.size() || have > length) {
      return absl::DataLossError(absl::StrCat("frame of ", length, " bytes, ", have, " read"));
    }
    if (have == length) return length;
  }
}

class RawTcp final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    absl::StatusOr<RawListener> listener = RawListener::Listen();
    if (!listener.ok()) return listener.status();
    ready(listener->address());
    for (;;) {
      absl::StatusOr<RawSocket> socket = listener->Accept(workload.waiting);
      if (!socket.ok()) return socket.status();
      absl::Status served;
      while (served.ok()) {
        const absl::StatusOr<size_t> length = ReadFrame(*socket, buffer_);
        served = length.ok() ? socket->Write(buffer_.data(), *length) : length.status();
      }
      if (!absl::IsUnavailable(served)) return served;
    }
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    if (workload.outstanding != 1 || workload.frame_bytes < kRawFrameMin ||
        workload.frame_bytes > kRawFrameMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("raw_tcp keeps one frame of ", kRawFrameMin, " to ", kRawFrameMax,
                       " bytes outstanding, not ", workload.Encode()));
    }
    absl::StatusOr<RawSocket> socket = RawSocket::Connect(address, workload.waiting);
    if (!socket.ok()) return socket.status();
    const uint32_t length = static_cast<uint32_t>(workload.frame_bytes);
    uint32_t sequence = 0;
    recorder.Begin();
    do {
      StoreHead(buffer_.data(), {.length_bytes = length, .sequence = ++sequence});
      if (absl::Status sent = socket->Write(buffer_.data(), length); !sent.ok()) return sent;
      const absl::StatusOr<size_t> got = ReadFrame(*socket, buffer_);
      if (!got.ok()) return got.status();
      if (*got != length || LoadHead(buffer_.data()).sequence != sequence) {
        return absl::DataLossError(absl::StrCat("wrong answer to frame ", sequence));
      }
    } while (recorder.Continue());
    return absl::OkStatus();
  }

  absl::Status OpenIdleConnections(const std::string&, int) override {
    return absl::UnimplementedError("a bare socket has no user memory");
  }

 private:
  Buffer buffer_{};
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::RawTcp subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
