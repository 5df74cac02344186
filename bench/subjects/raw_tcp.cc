// Subject "raw_tcp": framed calls over a bare TCP or Unix socket. The limit for a call whose caller
// waits for each answer: per side and call one recv (more while spinning, or when a frame is large)
// and one send; the length is looked at, the frame is answered from the buffer it was read into.
//
// kNumber and kEcho: the frame comes back as it is. kPrebuilt: a frame of payload_bytes, answered
// by one that is a head only.
//
// workload.scale 1: the server waits in an epoll of its one socket, as an event loop does, which is
// one more system call on its side.
//
// Many outstanding: each frame has a recv and a send of its own, on either side. What batching
// gains is the subject raw_tcp_batch.

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"
#include "bench/subjects/raw_frame.h"
#include "bench/subjects/raw_socket.h"

namespace mi7::bench {
namespace {

// Of small frames one recv takes a whole one; of several, no more than one.
constexpr size_t kSmall = 4096;

class FrameSocket {
 public:
  // `frame_bytes`: of each frame that comes.
  FrameSocket(RawSocket socket, size_t frame_bytes)
      : socket_(std::move(socket)), frame_bytes_(frame_bytes), buffer_(frame_bytes) {}

  char* buffer() { return buffer_.data(); }

  // Reads one frame into the buffer.
  absl::Status Read() {
    size_t have = 0;
    while (have < frame_bytes_) {
      const absl::StatusOr<size_t> got = socket_.Read(buffer_.data() + have, frame_bytes_ - have);
      if (!got.ok()) return got.status();
      have += *got;
    }
    const size_t length = LoadHead(buffer_.data()).length_bytes;
    if (length == frame_bytes_) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("frame of ", length, " bytes"));
  }
  absl::Status Write(const char* frame, size_t bytes) { return socket_.Write(frame, bytes); }

 private:
  RawSocket socket_;
  const size_t frame_bytes_;
  std::vector<char> buffer_;
};

class RawTcp final : public Subject {
 public:
  absl::Status Serve(const Workload& workload,
                     const std::function<void(const std::string&)>& ready) override {
    absl::StatusOr<RawListener> listener = RawListener::Listen(workload);
    if (!listener.ok()) return listener.status();
    ready(listener->address());
    for (;;) {
      absl::StatusOr<RawSocket> socket = listener->Accept(workload.waiting);
      if (!socket.ok()) return socket.status();
      if (workload.scale == 1) {
        if (absl::Status waits = socket->WaitInEpoll(); !waits.ok()) return waits;
      }
      FrameSocket frames(*std::move(socket), workload.payload_bytes);
      const size_t answer = AnswerBytes(workload);
      absl::Status served;
      while (served.ok()) {
        served = frames.Read();
        if (!served.ok()) break;
        RawFrameHead head = LoadHead(frames.buffer());
        head.length_bytes = static_cast<uint32_t>(answer);
        StoreHead(frames.buffer(), head);
        served = frames.Write(frames.buffer(), answer);
      }
      if (!absl::IsUnavailable(served)) return served;
    }
  }

  absl::Status MakeCalls(const std::string& address, const Workload& workload,
                         Recorder& recorder) override {
    const bool one_by_one = workload.outstanding == 1 || workload.payload_bytes <= kSmall;
    if (workload.payload_bytes < kRawFrameMin || workload.payload_bytes > kRawFrameMax ||
        !one_by_one || workload.call == Call::kTouched || workload.call == Call::kStream) {
      return absl::InvalidArgumentError(
          absl::StrCat("raw_tcp echoes frames of ", kRawFrameMin, " to ", kRawFrameMax,
                       " bytes, small ones when many, not ", workload.Encode()));
    }
    absl::StatusOr<RawSocket> socket = RawSocket::Connect(address, workload.waiting);
    if (!socket.ok()) return socket.status();
    FrameSocket frames(*std::move(socket), AnswerBytes(workload));
    std::vector<char> request(workload.payload_bytes);
    return workload.outstanding == 1
               ? CallOneByOne(frames, request, recorder)
               : CallPipelined(frames, request, static_cast<uint32_t>(workload.outstanding),
                               recorder);
  }

 private:
  static size_t AnswerBytes(const Workload& workload) {
    return workload.call == Call::kPrebuilt ? sizeof(RawFrameHead) : workload.payload_bytes;
  }

  static absl::Status Send(FrameSocket& frames, std::vector<char>& request, uint32_t sequence) {
    StoreHead(request.data(),
              {.length_bytes = static_cast<uint32_t>(request.size()), .sequence = sequence});
    return frames.Write(request.data(), request.size());
  }

  static absl::Status Receive(FrameSocket& frames, uint32_t sequence) {
    if (absl::Status got = frames.Read(); !got.ok()) return got;
    if (LoadHead(frames.buffer()).sequence == sequence) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("wrong answer to frame ", sequence));
  }

  static absl::Status CallOneByOne(FrameSocket& frames, std::vector<char>& request,
                                   Recorder& recorder) {
    uint32_t sequence = 0;
    recorder.Begin();
    do {
      ++sequence;
      if (absl::Status sent = Send(frames, request, sequence); !sent.ok()) return sent;
      if (absl::Status got = Receive(frames, sequence); !got.ok()) return got;
    } while (recorder.Continue());
    return absl::OkStatus();
  }

  static absl::Status CallPipelined(FrameSocket& frames, std::vector<char>& request,
                                    uint32_t outstanding, Recorder& recorder) {
    std::vector<int64_t> stamps(outstanding);
    uint32_t sent = 0;
    uint32_t answered = 0;
    absl::Status status;
    const auto send_one = [&] {
      stamps[sent % outstanding] = recorder.Issue();
      status.Update(Send(frames, request, sent++));
    };
    recorder.Begin();
    while (sent < outstanding) send_one();
    while (status.ok() && answered != sent) {
      status.Update(Receive(frames, answered));
      if (recorder.Complete(stamps[answered++ % outstanding])) send_one();
    }
    return status;
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::RawTcp subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
