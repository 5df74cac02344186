#include "rpc/callee_stream.h"

#include <utility>

#include "base/object_pool.h"
#include "rpc/message_reader.h"
#include "rpc/server_call.h"
#include "transport/driving_thread.h"

namespace mi7 {

CalleeStream::CalleeStream(ServerCall& call, const MethodInfo& method, const Limits& limits,
                           Deadline deadline, std::shared_ptr<Timers> timers,
                           std::shared_ptr<void> keep_alive)
    : Stream(method, transport::StreamDirection::kToCaller, limits, call.interceptors()),
      call_(call),
      deadline_(deadline),
      timers_(std::move(timers)),
      keep_alive_(std::move(keep_alive)) {}

CalleeStream* CalleeStream::New(ServerCall& call, const MethodInfo& method, SessionStreams& streams,
                                Deadline deadline, std::shared_ptr<Timers> timers,
                                std::shared_ptr<void> keep_alive) {
  CalleeStream* const stream = ObjectPool<CalleeStream>::New(
      call, method, call.limits(), deadline, std::move(timers), std::move(keep_alive));
  stream->Connect(streams, call.header().call_id);
  stream->outbox().Open(streams.peer_window());
  return stream;
}

void CalleeStream::Unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    ObjectPool<CalleeStream>::Delete(this);
  }
}

void CalleeStream::WantBackground() {
  if (deadline_.infinite() || timers_ == nullptr) return;
  MutexLock lock(&timer_mutex_);
  if (std::exchange(timed_, true)) return;
  Ref();
  timer_ = timers_->Schedule(deadline_, [self = StreamRef(this)] {
    static_cast<CalleeStream*>(self.get())->OnDeadline();
  });
}

void CalleeStream::StopTimer() {
  Timers::Handle timer;
  {
    MutexLock lock(&timer_mutex_);
    timed_ = true;
    timer = std::exchange(timer_, {});
  }
  // A server's timers are closed before its last streams end.
  if (timer != Timers::Handle()) timers_->Cancel(timer);
}

transport::OutgoingMessage CalleeStream::NewMessage() {
  auto& guess = transport::SizeGuess::For(~(method().interface_id + method().method_id));
  absl::StatusOr<transport::OutgoingMessage> reserved =
      streams()->connection().Reserve(guess.bytes());
  if (!reserved.ok()) return transport::NewHeapMessage(guess.bytes());  // closed: Write says so
  (*reserved)->size_guess = &guess;
  return *std::move(reserved);
}

void CalleeStream::AddToFirst(transport::MessageBody& message) {
  call_.AddInitialMetadata(message);
}

void CalleeStream::TakeBackFromFirst() { call_.TakeBackInitialMetadata(); }

absl::Status CalleeStream::FailMalformed() {
  const absl::Status why = StatusOfException(absl::StatusCode::kInvalidArgument, method().name);
  FailInput(why);
  return why;
}

void CalleeStream::OnAnswering() {
  outbox().Flush();
  StopSending();
}

void CalleeStream::OnAnswered() {
  StopTimer();
  const absl::Status why =
      Named(absl::StatusCode::kFailedPrecondition, "the call has been answered");
  FailInput(why);
  outbox().End(why);
}

void CalleeStream::OnCancelled(absl::StatusCode code, absl::string_view why) {
  const absl::Status status = Named(code, why);
  outbox().End(status);
  FailInput(status);
}

absl::Status CalleeStream::MayBlock() {
  // Of another connection, too: it may be this thread that drives both.
  if (!streams()->connection().InCallback() && !transport::OnDrivingThread()) {
    return absl::OkStatus();
  }
  return Named(absl::StatusCode::kFailedPrecondition,
               "Wait() on a thread that drives connections would wait for itself; be a coroutine, "
               "use Then(), or defer the call and wait on a thread of your own");
}

bool CalleeStream::Sleep(transport::Completion& completion, Deadline deadline) {
  // Not Connection::Await: this thread would run the handlers of other calls.
  for (;;) {
    switch (completion.Sleep(deadline)) {
      case transport::Completion::Woken::kDone:
        return true;
      case transport::Completion::Woken::kDeadline:
        return false;
      case transport::Completion::Woken::kTurn:
        break;
    }
  }
}

void CalleeStream::OnDeadline() {
  OnCancelled(absl::StatusCode::kDeadlineExceeded, "deadline passed");
}

}  // namespace mi7
