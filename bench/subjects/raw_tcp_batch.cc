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
//
// kStream, the limit for streams: the client writes frames of 64 KiB together with one send (larger
// ones each with its own), the server takes what is there with one recv and checks every complete
// frame: length, the next sequence number. A frame that is nothing but a head asks how many have
// arrived, and is sent back with that number.

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/raw_frame.h"
#include "bench/subjects/raw_socket.h"

namespace mi7::bench {
namespace {

constexpr size_t kBufferBytes = 256 * 1024;
constexpr size_t kBatchFrameMax = 4096;
constexpr size_t kStreamFrameMax = size_t{1} << 20;
constexpr size_t kStreamBatchBytes = 64 * 1024;

// Takes whole frames of at most `frame_max` bytes out of a stream.
class FrameBatch {
 public:
  explicit FrameBatch(size_t frame_max) : frame_max_(frame_max) {}

  // Reads what is there and calls `each(frame, length)` for every complete frame.
  template <typename Each>
  absl::Status Next(RawSocket& socket, Each each) {
    const absl::StatusOr<size_t> got = socket.Read(buffer_.data() + have_, buffer_.size() - have_);
    if (!got.ok()) return got.status();
    have_ += *got;
    size_t at = 0;
    while (have_ - at >= kRawFrameMin) {
      const size_t length = LoadHead(buffer_.data() + at).length_bytes;
      if (length < kRawFrameMin || length > frame_max_) {
        return absl::DataLossError(absl::StrCat("frame of ", length, " bytes"));
      }
      if (have_ - at < length) break;
      each(buffer_.data() + at, length);
      at += length;
    }
    have_ -= at;
    if (at > 0 && have_ > 0) std::memmove(buffer_.data(), buffer_.data() + at, have_);
    return absl::OkStatus();
  }

 private:
  const size_t frame_max_;
  std::vector<char> buffer_ = std::vector<char>(kBufferBytes + frame_max_);
  size_t have_ = 0;
};

// Takes a stream until its client goes.
absl::Status Consume(RawSocket& socket, size_t length) {
  FrameBatch batch(length);
  uint32_t arrived = 0;
  absl::Status status;
  absl::Status told;
  bool right = true;
  while (status.ok() && told.ok() && right) {
    status = batch.Next(socket, [&](const char* frame, size_t got) {
      if (got == length) {
        right = right && LoadHead(frame).sequence == arrived++;
        return;
      }
      right = right && got == kRawFrameMin;
      char answer[kRawFrameMin];
      StoreHead(answer, {.length_bytes = kRawFrameMin, .sequence = arrived});
      told.Update(socket.Write(answer, sizeof(answer)));
    });
  }
  if (!right) return absl::DataLossError(absl::StrCat("wrong frame near ", arrived));
  return status.ok() ? told : status;
}

// Sends frames that lie ready in a buffer, as many as a batch holds.
class Producer {
 public:
  Producer(RawSocket& socket, size_t length)
      : socket_(socket),
        length_(length),
        in_batch_(std::max<size_t>(kStreamBatchBytes / length, 1)),
        batch_(in_batch_ * length, 1) {}

  absl::Status Send() {
    StoreHead(batch_.data() + filled_++ * length_,
              {.length_bytes = static_cast<uint32_t>(length_), .sequence = sent_++});
    return filled_ == in_batch_ ? Flush() : absl::OkStatus();
  }

  // Waits until all have arrived.
  absl::Status Confirm() {
    absl::Status status = Flush();
    char head[kRawFrameMin];
    StoreHead(head, {.length_bytes = kRawFrameMin, .sequence = 0});
    if (status.ok()) status = socket_.Write(head, sizeof(head));
    for (size_t have = 0; status.ok() && have < sizeof(head);) {
      const absl::StatusOr<size_t> got = socket_.Read(head + have, sizeof(head) - have);
      if (!got.ok()) return got.status();
      have += *got;
    }
    if (status.ok() && LoadHead(head).sequence != sent_) {
      return absl::DataLossError(
          absl::StrCat("of ", sent_, " frames ", LoadHead(head).sequence, " arrived"));
    }
    return status;
  }

 private:
  absl::Status Flush() {
    const size_t bytes = filled_ * length_;
    filled_ = 0;
    return bytes == 0 ? absl::OkStatus() : socket_.Write(batch_.data(), bytes);
  }

  RawSocket& socket_;
  const size_t length_;
  const size_t in_batch_;
  std::vector<char> batch_;
  size_t filled_ = 0;  // frames
  uint32_t sent_ = 0;
};

absl::Status Produce(RawSocket& socket, size_t length, Recorder& recorder) {
  Producer producer(socket, length);
  recorder.Begin();
  do {
    int64_t stamp_ns = 0;
    do {
      stamp_ns = recorder.Issue();
      if (absl::Status sent = producer.Send(); !sent.ok()) return sent;
    } while (recorder.Sent(stamp_ns));
    if (absl::Status confirmed = producer.Confirm(); !confirmed.ok()) return confirmed;
  } while (recorder.Confirm());
  return absl::OkStatus();
}

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
      absl::Status served;
      if (workload.call == Call::kStream) served = Consume(*socket, workload.payload_bytes);
      FrameBatch batch(kBatchFrameMax);
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
    if (workload.call == Call::kStream && length > kRawFrameMin && length <= kStreamFrameMax) {
      absl::StatusOr<RawSocket> socket = RawSocket::Connect(address, workload.waiting);
      return socket.ok() ? Produce(*socket, length, recorder) : socket.status();
    }
    if (workload.call != Call::kNumber || length < kRawFrameMin || length > kBatchFrameMax ||
        length * outstanding > kBufferBytes) {
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
    FrameBatch batch(kBatchFrameMax);
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
