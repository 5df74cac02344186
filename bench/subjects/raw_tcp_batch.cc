// Subject "raw_tcp_batch": framed echo over a bare socket with many frames outstanding. The limit
// for pipelined calls. Exactly this happens:
//
// * The client first writes `outstanding` frames with one send. Then, again and again: one recv
//   takes what is there; every complete frame in it is checked (length, the next sequence number)
//   and replaced by a new one; one send writes all the new ones. So `outstanding` frames are in
//   flight at all times but while it works on a batch.
// * The server: one recv takes what is there; every complete frame is copied into the answer; one
//   send writes the whole answer.
// * An incomplete frame at the end of a batch is kept in front of the next recv.
//
// Nobody waits for a batch to fill, so its size is what arose while the other side was working.
// Blocking sleeps in recv when nothing is there; spinning calls it again.

#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/raw_frame.h"
#include "bench/subjects/raw_socket.h"

namespace mi7::bench {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;
constexpr size_t kBatchFrameMax = 4096;

// Takes whole frames out of a stream.
class FrameBatch {
 public:
  // Reads what is there and calls `each(frame, length)` for every complete frame.
  template <typename Each>
  absl::Status Next(RawSocket& socket, Each each) {
    const absl::StatusOr<size_t> got = socket.Read(buffer_.data() + have_, buffer_.size() - have_);
    if (!got.ok()) return got.status();
    have_ += *got;
    size_t at = 0;
    while (have_ - at >= kRawFrameMin) {
      const size_t length = LoadHead(buffer_.data() + at).length_bytes;
      if (length < kRawFrameMin || length > kBatchFrameMax) {
        return absl::DataLossError(absl::StrCat("frame of ", length, " bytes"));
      }
      if (have_ - at < length) break;
      each(buffer_.data() + at, length);
      at += length;
    }
    have_ -= at;
    if (have_ > 0) std::memmove(buffer_.data(), buffer_.data() + at, have_);
    return absl::OkStatus();
  }

 private:
  std::vector<char> buffer_ = std::vector<char>(kBufferBytes);
  size_t have_ = 0;
};

class RawTcpBatch final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    absl::StatusOr<RawListener> listener = RawListener::Listen(workload);
    if (!listener.ok()) return listener.status();
    ready(listener->address());
    for (;;) {
      absl::StatusOr<RawSocket> socket = listener->Accept(workload.waiting);
      if (!socket.ok()) return socket.status();
      FrameBatch batch;
      absl::Status served;
      while (served.ok()) {
        size_t size = 0;
        served = batch.Next(*socket, [&](const char* frame, size_t length) {
          std::memcpy(out_.data() + size, frame, length);
          size += length;
        });
        if (served.ok()) served = socket->Write(out_.data(), size);
      }
      if (!absl::IsUnavailable(served)) return served;
    }
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    const size_t length = workload.payload_bytes;
    const uint32_t outstanding = static_cast<uint32_t>(workload.outstanding);
    if (length < kRawFrameMin || length > kBatchFrameMax || length * outstanding > kBufferBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("raw_tcp_batch takes frames of ", kRawFrameMin, " to ", kBatchFrameMax,
                       " bytes and ", kBufferBytes, " in flight, not ", workload.Encode()));
    }
    absl::StatusOr<RawSocket> socket = RawSocket::Connect(address, workload.waiting);
    if (!socket.ok()) return socket.status();
    std::vector<int64_t> stamps(outstanding);
    uint32_t sent = 0;
    uint32_t answered = 0;
    size_t size = 0;
    const auto add_frame = [&] {
      stamps[sent % outstanding] = recorder.Issue();
      StoreHead(out_.data() + size,
                {.length_bytes = static_cast<uint32_t>(length), .sequence = sent++});
      size += length;
    };
    recorder.Begin();
    while (sent < outstanding) add_frame();
    absl::Status status = socket->Write(out_.data(), size);
    FrameBatch batch;
    bool right = true;
    while (status.ok() && right && answered != sent) {
      size = 0;
      status = batch.Next(*socket, [&](const char* frame, size_t got) {
        right = right && got == length && LoadHead(frame).sequence == answered;
        if (recorder.Complete(stamps[answered++ % outstanding])) add_frame();
      });
      if (status.ok()) status = socket->Write(out_.data(), size);
    }
    if (!right) return absl::DataLossError(absl::StrCat("wrong answer near frame ", answered));
    return status;
  }

 private:
  std::vector<char> out_ = std::vector<char>(2 * kBufferBytes);
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::RawTcpBatch subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
