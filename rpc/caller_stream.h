#pragma once

// CallerStream: a stream at the end that makes the call. The call's return ends it, and whatever
// else ends a call.
//
// Owned by its ClientCall, whose references keep it. ClientCall, CallSide and Channel call the
// functions below at the points of a call's life that are named there.

#include <atomic>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "rpc/metadata.h"
#include "rpc/request.h"
#include "rpc/stream.h"

namespace mi7 {

// Thread-safety: see Stream.
class CallerStream final : public Stream {
 public:
  // Makes `call`, which is in building state, a streaming one, and sends it.
  static StreamRef Open(ClientCallRef call);

  void Ref() override;
  void Unref() override;
  void WantBackground() override;
  transport::OutgoingMessage NewMessage() override;
  ClientCall* call() override { return call_; }
  absl::Status ReceiveExtra(const transport::IncomingMessage& message) override;
  void OnFirstMessage(const transport::IncomingMessage& message) override;
  absl::Status FailMalformed() override;
  void FailInput(const absl::Status& why) override;

  // Whether the return of an OK call carries results.
  bool awaits_results() const { return !StreamsResults(method().kind); }

  // --- The call's life ---

  // It is about to be sent with this id.
  void OnSending(SessionStreams& streams, uint32_t call_id) { Connect(streams, call_id); }
  // It was sent, and is not over as far as is known.
  void OnSent() { outbox().Open(streams()->peer_window()); }
  // It was given up, and what has arrived is of no use.
  void OnGivenUp() { inbox().Clear(); }
  // It is about to be done: what its interceptors get of the initial metadata that have come.
  void TakeInitialMetadata(Metadata& initial);
  // It is done.
  void OnDone();

 public:  // constructed by the object pool only
  explicit CallerStream(ClientCall* call);
  // What is kept is counted in the session, which may go with the call.
  ~CallerStream() { inbox().Clear(); }

 private:
  absl::Status OnUnexpectedMessage() override;
  absl::Status MayBlock() override;
  bool Sleep(transport::Completion& completion, Deadline deadline) override;
  Deadline deadline() const override;
  void OnDeadline() override;
  // What came along with the first message.
  absl::Status DecodeExtra(const transport::IncomingMessage& message, ResponseMetadata& received);

  ClientCall* const call_;
  std::atomic<bool> in_background_{false};  // relaxed: asked for once or twice
  // Where the channel has interceptors: from the first message to the call's end, which comes on
  // any thread.
  Mutex initial_mutex_;
  Metadata initial_ ABSL_GUARDED_BY(initial_mutex_);
};

}  // namespace mi7
