#pragma once

// CallerStream: a stream at the end that makes the call. The call's return ends it, and whatever
// else ends a call.
//
// Owned by its ClientCall, whose references keep it. ClientCall, CallSide and Channel call the
// functions below at the points of a call's life that are named there.
//
// A call that was not sent, or was refused, is made again as other calls are (CallRepeats), by
// further ClientCalls, the attempts, of which nobody knows but the runtime. They share the stream
// of the call that they are attempts at, one after the other, so that its handles and whoever waits
// in them know nothing of attempts either: the stream is connected anew, and what was written to it
// is written again (StreamOutbox). The first sign that a server has begun the call (a message, a
// credit, an end of its messages) makes it the last attempt.

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

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

  // `by`, the call or an attempt at it, is about to be sent with this id.
  void OnSending(SessionStreams& streams, uint32_t call_id, const ClientCall& by);
  // It was sent, in an attempt (from 0) that is not over as far as is known, to a peer that accepts
  // `window` bytes.
  void OnSent(uint32_t attempt, uint32_t window) { outbox().Open(window, attempt); }
  // The server has sent a frame of the stream in that attempt. kOver: the attempt is; the frame is
  // that of a peer that made it up.
  enum class Begun : uint8_t { kNow, kBefore, kOver };
  Begun OnBegun(uint32_t attempt);
  // The attempt at the call was not sent or was refused, and another one may follow, for which all
  // is prepared. False: none may, since the server has begun the call, or what was written is not
  // there any more. Once an attempt, by whoever has taken it out of the runtime's tables.
  bool Restart();
  // It was given up, and what has arrived is of no use: OnDone drops it. By who ends it.
  void OnGivenUp() { given_up_ = true; }
  // It is about to be done: what its interceptors get of the initial metadata that have come.
  void TakeInitialMetadata(Metadata& initial);
  // It is done.
  void OnDone();

 public:  // constructed by the object pool only
  explicit CallerStream(ClientCall* call);
  // What is kept is counted in the session, which may go with the call.
  ~CallerStream() { inbox().Clear(absl::OkStatus()); }

 private:
  absl::Status OnUnexpectedMessage() override;
  absl::Status MayBlock() override;
  bool Sleep(transport::Completion& completion, Deadline deadline) override;
  void FailAgain(const absl::Status& why) override;
  Deadline deadline() const override;
  void OnDeadline() override;
  // What came along with the first message.
  absl::Status DecodeExtra(const transport::IncomingMessage& message, ResponseMetadata& received);

  ClientCall* const call_;
  std::atomic<bool> in_background_{false};  // relaxed: asked for once or twice
  bool given_up_ = false;                   // of whoever ends the call
  // Twice the number of the attempt, and 1 when the server has begun the call. Relaxed: who of
  // OnBegun and Restart comes second does nothing, and so reads nothing of the other one's.
  std::atomic<uint32_t> progress_{0};
  // Of the attempts but the first: a thread may still wait in the connection of one that is over.
  std::vector<std::shared_ptr<Session>> sessions_;
  // Where the channel has interceptors: from the first message to the call's end, which comes on
  // any thread.
  Mutex initial_mutex_;
  Metadata initial_ ABSL_GUARDED_BY(initial_mutex_);
};

}  // namespace mi7
