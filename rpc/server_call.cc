#include "rpc/server_call.h"

#include <utility>

#include "base/object_pool.h"
#include "rpc/answer_side.h"
#include "rpc/callee_stream.h"
#include "transport/driving_thread.h"

namespace mi7 {

ServerCall::ServerCall(AnswerSide* side, transport::IncomingMessage&& request,
                       transport::OutgoingMessage response)
    : side_(side),
      limits_(&side->limits()),
      request_(std::move(request)),
      response_(std::move(response)) {
  if (request_.header().timeout != 0) {
    deadline_ = Deadline::AtNanos(transport::ArrivedNanos() +
                                  transport::DecodeTimeout(request_.header().timeout));
  }
}

ServerCall::~ServerCall() {
  if (stream_ != nullptr) [[unlikely]]
    stream_->Unref();
}

bool ServerCall::OpenStream(const MethodInfo& method) {
  SessionStreams& streams = side_->streams();
  if (!streams.supported()) return false;
  PrepareAsync();
  stream_ = CalleeStream::New(*this, method, streams, deadline_, side_->timers(), keep_side_alive_);
  if (StreamsResults(method.kind)) {
    // The return only ends the stream, for which no memory is kept all the while.
    response_ = transport::NewHeapMessage(0);
    response_->has_body = false;
    extras();  // from now on two threads may ask for it
  }
  if (StreamsParams(method.kind)) request_.reset();
  return true;
}

void ServerCall::AddInitialMetadata(transport::MessageBody& message) {
  if (extras_->response.initial.empty()) return;
  ResponseMetadata first;
  first.initial = extras_->response.initial;
  // What breaks the rules goes with the return, which fails with it.
  extras_->initial_is_sent = EncodeResponseMetadata(first, *limits_, message).ok();
}

void ServerCall::TakeBackInitialMetadata() { extras_->initial_is_sent = false; }

StreamRef ServerCall::stream() const {
  stream_->Ref();
  return StreamRef(stream_);
}

void ServerCall::PrepareAsync() {
  if (keep_side_alive_) return;
  keep_side_alive_ = side_->RegisterAsync(*this);
}

void ServerCall::Share() {
  PrepareAsync();
  shared_ = true;
  references_.store(2, std::memory_order_relaxed);  // nobody else has it yet
}

// Two parties can answer a deferred call: the DeferredCall, and the handler's own return (a bug of
// the handler, or an exception after Defer). Each gives back its reference, with an answer or
// without; when neither had one, the last of them says so. That is why the text of an exception,
// whose unwinding drops the DeferredCall, reaches the caller. acq_rel: the loser must not touch the
// messages, and the one that destroys sees all uses before it.
void ServerCall::Answer(absl::Status status) {
  if (!shared_) {
    Finish(status);
    ObjectPool<ServerCall>::Delete(this);
    return;
  }
  if (!answered_.exchange(true, std::memory_order_acq_rel)) Finish(status);
  Unref();
}

void ServerCall::ReturnedLater() {
  if (!shared_) {
    Answer(absl::InternalError("handler returned Reply::Later() without ServerContext::Defer()"));
    return;
  }
  Unref();
}

void ServerCall::Unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (!answered_.load(std::memory_order_relaxed)) {
    absl::Status unanswered = absl::InternalError("handler dropped the call without an answer");
    Finish(unanswered);
  }
  ObjectPool<ServerCall>::Delete(this);
}

void ServerCall::Finish(absl::Status& status) {
  if (extras_ != nullptr && extras_->running != nullptr) [[unlikely]]
    side_->SaveAnswer(*this, status);
  // Before the interceptors see what is to be sent.
  if (stream_ != nullptr && !side_->forked()) [[unlikely]]
    stream_->OnAnswering();
  if (extras_ != nullptr) [[unlikely]] {
    if (extras_->interception) extras_->interception->RunEnd(status);
    extras_->load.Release(status.ok());
    if (extras_->initial_is_sent) extras_->response.initial = {};
  }
  side_->Finish(*this, status);
}

bool ServerCall::Intercept(const Interceptors& interceptors, const MethodInfo* method,
                           absl::Status& ended) {
  ServerInterception& interception =
      extras().interception.emplace(interceptors, *this, *extras_, method);
  if (!interception.RunStart()) {
    ended = interception.status();
    return false;
  }
  ended = interception.TakeParams();
  return ended.ok();
}

const Interceptors* ServerCall::interceptors() const {
  if (extras_ == nullptr || !extras_->interception) return nullptr;
  return &extras_->interception->interceptors();
}

absl::Status ServerCall::ReadExtra() {
  absl::Status read = DecodeCallExtra(request_, *limits_, extras().received);
  // Before interceptors and other calls take their time.
  if (!extras().received.request_id.empty()) extras().arrived_ns = transport::ArrivedNanos();
  return read;
}

DeferredCall ServerContext::Defer() {
  if (call_->shared_) return DeferredCall();
  call_->Share();
  return DeferredCall(call_);
}

std::string ServerContext::peer() const { return call_->side_->peer(); }
std::string ServerContext::transport() const { return call_->side_->transport_name(); }
Deadline ServerContext::deadline() const { return call_->deadline_; }
int ServerContext::attempt() const {
  return call_->extras_ == nullptr
             ? 1
             : 1 + static_cast<int>(call_->extras_->received.previous_attempts);
}
const Metadata& ServerContext::metadata() const {
  static const Metadata kNone;
  return call_->extras_ != nullptr ? call_->extras_->received.metadata : kNone;
}
std::shared_ptr<const TraceContext> ServerContext::trace() const {
  return call_->extras_ != nullptr ? call_->extras_->received.trace : nullptr;
}
Metadata& ServerContext::initial_metadata() { return call_->extras().response.initial; }
Metadata& ServerContext::trailing_metadata() { return call_->extras().response.trailing; }
bool ServerContext::cancelled() const {
  return call_->cancelled_.load(std::memory_order_relaxed) || call_->deadline_.passed() ||
         call_->side_->cut_off();
}

std::stop_token ServerContext::stop_token() const { return call_->side_->ScopeOf(*call_)->token(); }

CallOptions ServerContext::ForNestedCall(CallOptions options) const {
  options.within = call_->side_->ScopeOf(*call_);
  if (call_->deadline_ < options.deadline) options.deadline = call_->deadline_;
  if (!options.trace) options.trace = trace();
  return options;
}

CoroutineStop ServerContext::StopWhenCancelled() const { return {call_->side_->ScopeOf(*call_)}; }

ContextSleep ServerContext::Sleep(absl::Duration duration) const {
  return ContextSleep(call_->side_->ScopeOf(*call_), Deadline::After(duration));
}

void DeferredCall::Finish(absl::Status status) {
  if (call_ != nullptr) std::exchange(call_, nullptr)->Answer(std::move(status));
}

DeferredCall& DeferredCall::operator=(DeferredCall&& other) noexcept {
  if (this != &other) {
    Drop();
    call_ = std::exchange(other.call_, nullptr);
  }
  return *this;
}

DeferredCall::~DeferredCall() { Drop(); }

void DeferredCall::Drop() {
  if (call_ != nullptr) std::exchange(call_, nullptr)->Unref();
}

}  // namespace mi7
