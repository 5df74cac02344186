#include "rpc/answer_side.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/object_pool.h"
#include "rpc/callee_stream.h"
#include "rpc/error_codec.h"
#include "rpc/retry_info.h"

namespace mi7 {
namespace {

using transport::FrameHeader;
using transport::FrameType;
using transport::OutgoingMessage;

// So much text of an error can be sent where there is no memory for a message: with it the return
// is still small enough for a shared-memory ring.
constexpr size_t kShortTextBytes = 100;

absl::Status Shortened(const absl::Status& status) {
  return absl::Status(status.code(), status.message().substr(0, kShortTextBytes));
}

}  // namespace

void AnswerSide::OnCall(transport::IncomingMessage&& message) {
  if (config_->dispatcher == nullptr) {
    return Refuse(message.header(),
                  absl::UnimplementedError("this end of the connection serves nothing"));
  }
  if (absl::Status admitted = Admit(message.header()); !admitted.ok()) {
    // An id that is in use is a broken peer, not a call to refuse: its answer would be ambiguous.
    if (absl::IsInvalidArgument(admitted)) return owner_->connection().Close(std::move(admitted));
    return Refuse(message.header(), admitted);
  }
  if (!message.has_body()) {
    return Refuse(message.header(), absl::InvalidArgumentError("call without a body"));
  }
  LoadControl::Share share;
  if (config_->load != nullptr) [[unlikely]] {
    if (absl::Status taken = TakeOn(message, share); !taken.ok()) {
      return Refuse(message.header(), taken);
    }
  }
  if (!admits_all_.load(std::memory_order_relaxed)) [[unlikely]]
    HoldLess(message);
  // The queue's limit stops reading before it stops answering, so what was read is answered.
  const FrameHeader& header = message.header();
  auto& guess = transport::SizeGuess::For(~(header.interface_id + header.code));
  absl::StatusOr<OutgoingMessage> response = owner_->connection().Reserve(guess.bytes());
  ServerCall* const call = ObjectPool<ServerCall>::New(
      this, std::move(message),
      response.ok() ? *std::move(response) : transport::NewHeapMessage(guess.bytes()));
  call->response_->size_guess = &guess;
  if (config_->load != nullptr) [[unlikely]]
    call->extras().load = std::move(share);
  if (!call->request_.extra().empty()) [[unlikely]] {
    if (absl::Status read = call->ReadExtra(); !read.ok()) {
      const FrameHeader refused = call->header();
      ObjectPool<ServerCall>::Delete(call);
      return Refuse(refused, read);
    }
  }
  if (!config_->interceptors.empty()) [[unlikely]] {
    const MethodInfo* const method = config_->dispatcher->FindMethod(call->header());
    if (absl::Status ended; !call->Intercept(config_->interceptors, method, ended)) {
      // The return of a stream of results only ends it.
      if (method != nullptr && StreamsResults(method->kind)) call->response_->has_body = false;
      counts().accepted.Add();
      ExpectParamsOf(call->header());
      return call->Answer(std::move(ended));
    }
  }
  if (call->deadline_.passed()) [[unlikely]]
    return DropLate(*call);
  counts().accepted.Add();
  if (call->extras_ != nullptr && !call->extras_->received.request_id.empty()) [[unlikely]] {
    if (!RunsOnce(*call)) return;
  }
  config_->dispatcher->Run(*call).Deliver(*call);
}

void AnswerSide::DropLate(ServerCall& call) {
  counts().dropped_late.Add();
  ExpectParamsOf(call.header());
  const MethodInfo* const method = config_->dispatcher->FindMethod(call.header());
  const absl::Status late = absl::DeadlineExceededError(absl::StrCat(
      method != nullptr ? method->name : "call", ": deadline passed before the handler began"));
  // Interceptors that have seen its start see its end.
  if (call.interceptors() != nullptr) return call.Answer(late);
  const uint32_t call_id = call.header().call_id;
  ObjectPool<ServerCall>::Delete(&call);
  SendError(call_id, late, /*refused=*/true);
}

void AnswerSide::ExpectParamsOf(const FrameHeader& header) {
  if (config_->dispatcher == nullptr) return;
  const MethodInfo* const method = config_->dispatcher->FindMethod(header);
  if (method == nullptr || !StreamsParams(method->kind)) return;
  streams().ExpectLate(StreamInbox::MessagesIn(limits().stream_window_bytes) + Stream::kLateOthers);
}

AnswerSide::Counts& AnswerSide::MakeCounts() {
  auto* const made = new Counts;
  counts_.store(made, std::memory_order_release);
  return *made;
}

ServerStatistics AnswerSide::statistics() const {
  ServerStatistics statistics;
  const Counts* const counts = counts_.load(std::memory_order_acquire);
  if (counts == nullptr) return statistics;
  statistics.calls_accepted = counts->accepted.get();
  statistics.calls_refused = counts->refused.get();
  statistics.calls_dropped_late = counts->dropped_late.get();
  statistics.calls_recognized = counts->recognized.get();
  return statistics;
}

bool AnswerSide::IsControl(const FrameHeader& header) const {
  const MethodInfo* const method = config_->dispatcher->FindMethod(header);
  if (config_->load != nullptr) return config_->load->IsControl(method);
  return method != nullptr && method->priority == Priority::kControl;
}

absl::Status AnswerSide::TakeOn(const transport::IncomingMessage& message,
                                LoadControl::Share& share) {
  const FrameHeader& header = message.header();
  const MethodInfo* const method = config_->dispatcher->FindMethod(header);
  uint64_t bytes = header.size;
  if (method != nullptr && StreamsParams(method->kind)) bytes += limits().stream_window_bytes;
  std::atomic<uint64_t>* connection_bytes;
  {
    MutexLock lock(&mutex_);
    connection_bytes = &async_calls().load_bytes;
  }
  return config_->load->Admit(method, bytes, *connection_bytes, share);
}

void AnswerSide::OnStray() {
  const uint32_t most = limits().stray_frames_max;
  {
    MutexLock lock(&mutex_);
    AsyncCalls& counts = async_calls();
    if (counts.stray_frames != 0 && counts.stray_frames < most) [[likely]] {
      ++counts.stray_frames;
      return;
    }
    // The clock is read once for as many frames as are allowed.
    const auto now_s = static_cast<uint32_t>(MonotonicNanos() / 1'000'000'000);
    if (counts.stray_frames != most ||
        now_s - counts.stray_since_s >= absl::ToInt64Seconds(kStrayPeriod)) {
      counts.stray_frames = 1;
      counts.stray_since_s = now_s;
      return;
    }
  }
  owner_->connection().Close(absl::ResourceExhaustedError(absl::StrCat(
      "limits.stray_frames_max, ", most, ", pings, pongs, and frames of calls and streams that ",
      "are not in flight, within ", absl::FormatDuration(kStrayPeriod))));
}

absl::Status AnswerSide::AdmitSlow(const FrameHeader& header) const {
  const uint32_t call_id = header.call_id;
  MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("server is shutting down");
  if (async_calls_ == nullptr || async_calls_->empty()) return absl::OkStatus();
  if (FindAsync(call_id) != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("call id ", call_id, " is in use by a call in flight"));
  }
  if (async_unfinished_ >= limits().calls_in_flight_max &&
      (!IsControl(header) ||
       async_unfinished_ - limits().calls_in_flight_max >= kControlCallsReserved)) {
    return Refusal("calls_in_flight_max", limits().calls_in_flight_max);
  }
  if (!HasRoomFor(header)) return Refusal("request_bytes_max", limits().request_bytes_max);
  return absl::OkStatus();
}

void AnswerSide::HoldLess(transport::IncomingMessage& message) {
  // As ReceivedMessage::Keep does for streams. Buffers of ordinary size, one for each call that may
  // be in flight, are no more than request_bytes_max; the blocks that the answers are built in are
  // as much again.
  constexpr size_t kFactor = 8;
  constexpr size_t kLittle = 4096;
  const size_t held = message.held_bytes();
  if (held > kLittle && held > kFactor * message.header().size) [[unlikely]] {
    message = transport::CopyMessage(message, {});
  }
}

bool AnswerSide::HasRoomFor(const FrameHeader& header) const {
  const uint64_t after = async_calls_->request_bytes + header.size;
  if (after <= limits().request_bytes_max) return true;
  return IsControl(header) && after <= limits().request_bytes_max + kControlBytesReserved;
}

absl::Status AnswerSide::Refusal(absl::string_view limit, uint64_t value) const {
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat(limit, " is ", value)),
      config_->load != nullptr ? config_->load->retry_after() : LoadLimits().retry_after);
}

void AnswerSide::OnCancel(uint32_t call_id) {
  CalleeStream* stream = nullptr;
  std::shared_ptr<CallScope> scope;
  bool stray;
  {
    MutexLock lock(&mutex_);
    ServerCall* const call = FindAsync(call_id);
    // One cancellation a call is all that makes sense.
    stray = call == nullptr || call->cancelled_.load(std::memory_order_relaxed);
    if (!stray) {
      call->Cancel();
      stream = call->stream_;
      if (stream != nullptr) stream->Ref();
      scope = call->scope_;
    }
  }
  if (stray) return OnStray();
  if (scope) scope->Cancel();
  if (stream == nullptr) return;
  stream->OnCancelled(absl::StatusCode::kCancelled, "cancelled by the caller");
  stream->Unref();
}

CalleeStream* AnswerSide::FindStream(uint32_t call_id) {
  MutexLock lock(&mutex_);
  const ServerCall* const call = FindAsync(call_id);
  CalleeStream* const stream = call != nullptr ? call->stream_ : nullptr;
  if (stream != nullptr) stream->Ref();
  return stream;
}

absl::Status AnswerSide::OnStreamFrame(transport::IncomingMessage&& message) {
  CalleeStream* const stream = FindStream(message.header().call_id);
  if (stream == nullptr) {
    OnStrayOfStream();
    return absl::OkStatus();
  }
  if (stream->IsStray(message.header())) [[unlikely]]
    OnStray();
  absl::Status valid = stream->OnFrame(std::move(message));
  stream->Unref();
  return valid;
}

absl::Status AnswerSide::OnRejectedStreamMessage(const FrameHeader& header,
                                                 const absl::Status& why) {
  CalleeStream* const stream = FindStream(header.call_id);
  if (stream == nullptr) {
    OnStrayOfStream();
    return absl::OkStatus();
  }
  absl::Status valid = stream->OnRejected(header, why);
  stream->Unref();
  return valid;
}

void AnswerSide::OnRejectedCall(const FrameHeader& header, const absl::Status& why) {
  Refuse(header, why);
}

void AnswerSide::OnUnsentStreamMessage(const FrameHeader& header, const absl::Status& why) {
  CalleeStream* const stream = FindStream(header.call_id);
  if (stream == nullptr) return;
  stream->OnCancelled(why.code(), absl::StrCat("message that was not sent: ", why.message()));
  stream->Unref();
}

void AnswerSide::OnUnsent(const FrameHeader& header, const absl::Status& why) {
  if (absl::IsUnavailable(why)) return;  // the caller learns it by itself
  const bool had_results = header.code == 0;
  const absl::Status told(
      had_results ? why.code() : static_cast<absl::StatusCode>(header.code),
      absl::StrCat(had_results ? "the call has run; results: " : "text lost: ", why.message()));
  SendError(header.call_id, Shortened(told), /*refused=*/false);
}

void AnswerSide::OnClosed() {
  std::vector<std::pair<uint32_t, CalleeStream*>> streams;
  std::vector<std::pair<uint32_t, std::shared_ptr<CallScope>>> scopes;
  {
    MutexLock lock(&mutex_);
    if (async_calls_ == nullptr) return;
    for (const auto& [id, call] : *async_calls_) {
      // Its caller may come back for the answer.
      if (call->runs_once_ && !draining_) continue;
      call->Cancel();
      if (call->scope_) scopes.emplace_back(id, call->scope_);
      if (call->stream_ == nullptr) continue;
      call->stream_->Ref();
      streams.emplace_back(id, call->stream_);
    }
  }
  // By their ids, not as the table has them: a simulation is repeated with the same order.
  std::sort(scopes.begin(), scopes.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  std::sort(streams.begin(), streams.end());
  for (const auto& [id, scope] : scopes) scope->Cancel();
  for (const auto& [id, stream] : streams) {
    stream->OnCancelled(absl::StatusCode::kUnavailable, "connection lost");
    stream->Unref();
  }
}

bool AnswerSide::Drain() {
  MutexLock lock(&mutex_);
  draining_ = true;
  admits_all_.store(false, std::memory_order_relaxed);
  return async_unfinished_ == 0;
}

std::vector<uint32_t> AnswerSide::Accepted() const {
  std::vector<uint32_t> ids;
  MutexLock lock(&mutex_);
  if (async_calls_ == nullptr) return ids;
  ids.reserve(async_calls_->size() + async_calls_->returning.size());
  for (const auto& [id, call] : *async_calls_) ids.push_back(id);
  ids.insert(ids.end(), async_calls_->returning.begin(), async_calls_->returning.end());
  std::sort(ids.begin(), ids.end());
  return ids;
}

size_t AnswerSide::in_flight() const {
  MutexLock lock(&mutex_);
  return async_unfinished_;
}

std::shared_ptr<void> AnswerSide::RegisterAsync(ServerCall& call) {
  MutexLock lock(&mutex_);
  AsyncCalls& calls = async_calls();
  calls[call.header().call_id] = &call;
  calls.request_bytes += call.header().size;
  ++async_unfinished_;
  admits_all_.store(false, std::memory_order_relaxed);
  return owner_->KeepAlive();
}

std::shared_ptr<CallScope> AnswerSide::ScopeOf(ServerCall& call) {
  std::shared_ptr<CallScope> scope;
  bool cancelled;
  {
    MutexLock lock(&mutex_);
    if (!call.scope_) call.scope_ = CallScope::Create(owner_->timers(), call.deadline_);
    scope = call.scope_;
    cancelled = call.cancelled_.load(std::memory_order_relaxed);
  }
  // Cancelled before there was a scope to tell.
  if (cancelled) scope->Cancel();
  return scope;
}

void AnswerSide::Finish(ServerCall& call, const absl::Status& status) {
  if (forked()) [[unlikely]]
    return;
  if (!call.keep_side_alive_ && call.stream_ == nullptr && !call.scope_) [[likely]] {
    return SendReturn(call, status);
  }
  FinishUnusual(call, status);
}

void AnswerSide::FinishUnusual(ServerCall& call, const absl::Status& status) {
  const bool async = call.keep_side_alive_ != nullptr;
  if (call.stream_ != nullptr) [[unlikely]]
    streams().ExpectLate(call.stream_->LateFramesMost());
  if (async) {
    // Before the return is sent: the caller may use the id again as soon as it has it.
    MutexLock lock(&mutex_);
    async_calls_->erase(call.header().call_id);
    async_calls_->request_bytes -= call.header().size;
    async_calls_->returning.push_back(call.header().call_id);
  }
  SendReturn(call, status);
  if (call.stream_ != nullptr) [[unlikely]]
    call.stream_->OnAnswered();
  if (call.scope_) [[unlikely]]
    call.scope_->End();
  if (!async) return;
  bool draining;
  {
    MutexLock lock(&mutex_);
    auto& returning = async_calls_->returning;
    *std::find(returning.begin(), returning.end(), call.header().call_id) = returning.back();
    returning.pop_back();
    if (--async_unfinished_ != 0) return;
    draining = draining_;
    admits_all_.store(!draining, std::memory_order_relaxed);
  }
  owner_->OnAnswersDone(draining);
}

void AnswerSide::SendReturn(ServerCall& call, const absl::Status& status) {
  OutgoingMessage response = std::move(call.response_);
  FrameHeader& header = response->header;
  header.type = FrameType::kReturn;
  header.call_id = call.header().call_id;
  const ResponseMetadata* const metadata =
      call.extras_ != nullptr ? &call.extras_->response : nullptr;
  if (!status.ok()) [[unlikely]] {
    const bool refused = call.extras_ != nullptr && call.extras_->refused;
    EncodeError(status, refused, limits(), *response, metadata);
  } else if (metadata != nullptr) [[unlikely]] {
    AddMetadata(*metadata, *response);
  }
  const absl::Status sent = owner_->connection().Send(std::move(response));
  if (!sent.ok()) [[unlikely]]
    ReturnUnsent(call.header().call_id, status, sent);
}

void AnswerSide::AddMetadata(const ResponseMetadata& metadata, transport::MessageBody& response) {
  const absl::Status encoded = EncodeResponseMetadata(metadata, limits(), response);
  if (encoded.ok()) return;
  EncodeError(
      absl::InternalError(absl::StrCat("results: ", encoded.message(), "; the call has run")),
      /*refused=*/false, limits(), response);
}

void AnswerSide::ReturnUnsent(uint32_t call_id, const absl::Status& status,
                              const absl::Status& sent) {
  if (absl::IsUnavailable(sent)) return;  // closed: the caller learns it by itself
  // Results that exceed a limit, or for which there is no memory, fail this call with its name.
  if (status.ok()) {
    SendError(
        call_id,
        absl::Status(sent.code(), absl::StrCat("results: ", sent.message(), "; the call has run")),
        /*refused=*/false);
  } else {
    SendError(call_id, status, /*refused=*/false);
  }
}

void AnswerSide::SendError(uint32_t call_id, const absl::Status& status, bool refused) {
  for (const absl::Status& told : {status, Shortened(status)}) {
    OutgoingMessage message = transport::NewHeapMessage(0);
    message->header.type = FrameType::kReturn;
    message->header.call_id = call_id;
    EncodeError(told, refused, limits(), *message);
    // Closed: the caller learns it by itself. Otherwise it is the text for which there is no room.
    const absl::Status sent = owner_->connection().Send(std::move(message));
    if (sent.ok() || absl::IsUnavailable(sent)) return;
  }
}

}  // namespace mi7
