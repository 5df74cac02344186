#include "bench/subjects/mi7_streams.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "bench/subjects/data_bytes.h"
#include "bench/subjects/echo.mi7.h"
#include "bench/subjects/echo_bytes.h"
#include "bench/subjects/stream_tally.h"

namespace mi7::bench {
namespace {

StreamTally FromMessage(Sink::Tally::Reader tally) {
  return {.messages = tally.getMessages(), .digest = tally.getDigest()};
}

// A client-streaming call for each portion.
absl::Status Upload(const SinkStub& sink, const Workload& workload, Recorder& recorder) {
  std::optional<ClientStream<Sink::UploadParams, Sink::Tally>> upload;
  return SendStream(
      workload, recorder,
      [&](const std::string& bytes) {
        if (!upload.has_value()) upload.emplace(sink.Upload());
        auto message = upload->NewMessage();
        CopyData(*message, ToData(bytes));
        return upload->Write(std::move(message)).Wait();
      },
      [&]() -> absl::StatusOr<StreamTally> {
        const auto response = upload->Finish().Wait();
        upload.reset();
        if (!response.ok()) return response.status();
        return FromMessage(*response);
      });
}

// One portion, written from callbacks on the channel's event loop, where they never overlap.
class CallbackUpload {
 public:
  CallbackUpload(const SinkStub& sink, transport::EventLoop& loop, EchoBytes& bytes,
                 Recorder& recorder)
      : upload_(sink.Upload()), loop_(loop), bytes_(bytes), recorder_(recorder) {}

  // Blocks until the sink has confirmed the portion.
  absl::Status Run() {
    loop_.Post([this] { WriteNext(); });
    written_.WaitForNotification();
    if (!failure_.ok()) return failure_;
    const auto response = upload_.Finish().Wait();
    return response.ok() ? CheckTally(FromMessage(*response), tally_) : response.status();
  }

 private:
  void WriteNext() {
    stamp_ns_ = recorder_.Issue();
    const std::string& bytes = bytes_.Next();
    tally_.Add(bytes);
    auto message = upload_.NewMessage();
    CopyData(*message, ToData(bytes));
    upload_.Write(std::move(message)).Then([this](const absl::Status& sent) { Written(sent); });
  }

  void Written(const absl::Status& sent) {
    failure_.Update(sent);
    if (sent.ok() && recorder_.Sent(stamp_ns_)) {
      WriteNext();
    } else {
      // When this callback is over, too.
      loop_.Post([this] { written_.Notify(); });
    }
  }

  ClientStream<Sink::UploadParams, Sink::Tally> upload_;
  transport::EventLoop& loop_;
  EchoBytes& bytes_;
  Recorder& recorder_;
  StreamTally tally_;
  int64_t stamp_ns_ = 0;
  absl::Status failure_;
  absl::Notification written_;
};

absl::Status UploadByCallbacks(const SinkStub& sink, transport::EventLoop& loop,
                               const Workload& workload, Recorder& recorder) {
  EchoBytes bytes(workload);
  recorder.Begin();
  do {
    absl::Status confirmed = CallbackUpload(sink, loop, bytes, recorder).Run();
    if (!confirmed.ok()) return confirmed;
  } while (recorder.Confirm());
  return absl::OkStatus();
}

// A series of calls without results.
absl::Status Pour(const SinkStub& sink, const Workload& workload, Recorder& recorder) {
  return SendStream(
      workload, recorder,
      [&](const std::string& bytes) {
        auto request = sink.Pour();
        CopyData(*request, ToData(bytes));
        return request.Send().Wait();
      },
      [&]() -> absl::StatusOr<StreamTally> {
        if (absl::Status poured = sink.FinishStream().Wait(); !poured.ok()) return poured;
        const auto response = sink.Drain().Send().Wait();
        if (!response.ok()) return response.status();
        return FromMessage(*response);
      });
}

// One server-streaming call. What is counted has arrived.
absl::Status Download(const SinkStub& sink, const Workload& workload, Recorder& recorder) {
  const EchoBytes bytes(workload);
  auto request = sink.Download();
  request->setBytes(static_cast<uint32_t>(workload.payload_bytes));
  auto reader = request.Send();
  uint64_t value = 0;
  int64_t stamp_ns = 0;
  recorder.Begin();
  do {
    stamp_ns = recorder.Issue();
    const auto message = reader.Read().Wait();
    if (!message.ok()) return message.status();
    if (!message->has_value()) return absl::DataLossError("the stream has ended");
    absl::Status right = bytes.Check(ToBytes((*message)->getData()), ++value);
    if (!right.ok()) return right;
  } while (recorder.Complete(stamp_ns));
  return absl::OkStatus();
}

// One bidirectional call, written to and read from by this thread.
class Conversation {
 public:
  Conversation(const SinkStub& sink, const Workload& workload, Recorder& recorder)
      : chat_(sink.Chat()),
        recorder_(recorder),
        bytes_(workload),
        stamps_ns_(static_cast<size_t>(workload.outstanding)) {}

  absl::Status Run() {
    recorder_.Begin();
    return stamps_ns_.size() == 1 ? OneByOne() : Pipelined();
  }

 private:
  absl::Status OneByOne() {
    do {
      if (absl::Status sent = Write(); !sent.ok()) return sent;
      if (absl::Status got = Read(); !got.ok()) return got;
    } while (recorder_.Continue());
    return absl::OkStatus();
  }

  absl::Status Pipelined() {
    absl::Status status;
    const auto write = [&] {
      stamps_ns_[(bytes_.value() + 1) % stamps_ns_.size()] = recorder_.Issue();
      status.Update(Write());
    };
    for (size_t i = 0; i < stamps_ns_.size() && status.ok(); ++i) write();
    while (status.ok() && answered_ != bytes_.value()) {
      status = Read();
      if (!status.ok()) break;
      if (recorder_.Complete(stamps_ns_[answered_ % stamps_ns_.size()])) write();
    }
    return status;
  }

  absl::Status Write() {
    auto message = chat_.writer().NewMessage();
    CopyData(*message, ToData(bytes_.Next()));
    return chat_.writer().Write(std::move(message)).Wait();
  }

  // The next answer.
  absl::Status Read() {
    const auto message = chat_.reader().Read().Wait();
    if (!message.ok()) return message.status();
    if (!message->has_value()) return absl::DataLossError("the stream has ended");
    return bytes_.Check(ToBytes((*message)->getData()), ++answered_);
  }

  BidiStream<Sink::ChatParams, Sink::ChatResults> chat_;
  Recorder& recorder_;
  EchoBytes bytes_;
  std::vector<int64_t> stamps_ns_;  // of those outstanding
  uint64_t answered_ = 0;
};

}  // namespace

absl::Status RunStream(const std::shared_ptr<Channel>& channel, transport::EventLoop& loop,
                       const Workload& workload, Recorder& recorder) {
  const SinkStub sink(channel);
  switch (workload.call) {
    case Call::kStreamCallbacks:
      return UploadByCallbacks(sink, loop, workload, recorder);
    case Call::kStreamCalls:
      return Pour(sink, workload, recorder);
    case Call::kStreamBack:
      return Download(sink, workload, recorder);
    case Call::kStreamEcho:
      return Conversation(sink, workload, recorder).Run();
    default:
      return Upload(sink, workload, recorder);
  }
}

}  // namespace mi7::bench
