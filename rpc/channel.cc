#include "rpc/channel.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/last_shared.h"
#include "base/log.h"
#include "base/thread_kept.h"
#include "rpc/call_outcome.h"
#include "rpc/client_call.h"
#include "rpc/retry_info.h"
#include "transport/completion.h"
#include "transport/transports.h"

namespace mi7 {
namespace {

// Shared by the channels of this process that bring no loop of their own. Never destroyed: a
// channel may be dropped on the loop's own thread, and at exit in any order. The parent's is of no
// use to a forked child, which gets another.
absl::StatusOr<transport::EventLoop*> SharedLoop() {
  struct Shared {
    Shared() { ForkGuard::HoldAcrossFork(&mutex); }
    // Takes `created` when there is none yet.
    transport::EventLoop* Get(std::unique_ptr<transport::EventLoop>* created) {
      MutexLock lock(&mutex);
      if (created != nullptr && (loop == nullptr || loop->forked())) loop = created->release();
      return loop == nullptr || loop->forked() ? nullptr : loop;
    }
    Mutex mutex;
    transport::EventLoop* loop ABSL_GUARDED_BY(mutex) = nullptr;
  };
  static Shared& shared = *new Shared;
  if (transport::EventLoop* const loop = shared.Get(nullptr)) return loop;
  absl::StatusOr<std::unique_ptr<transport::EventLoop>> created =
      transport::EventLoop::Create({.name = "mi7-client"});
  if (!created.ok()) return created.status();
  return shared.Get(&*created);
}

std::atomic<uint64_t> next_channel_id{1};

// The session that this thread made its last call on: threads that share a channel do not meet at
// its mutex. Holds no session.
struct LastSession {
  uint64_t channel_id = 0;
  std::weak_ptr<Session> session;
};

// `text`, shared with the channels made just before that have the same.
std::shared_ptr<const std::string> ShareText(const std::string& text) {
  static auto& shared = *new LastShared<const std::string>;
  return shared.Get([&text](const std::string& last) { return last == text; },
                    [&text] { return std::make_shared<const std::string>(text); });
}

// What a call ends with for whose request there is no room; OK: the connection was lost, which does
// not matter before the call is sent.
[[gnu::noinline]] absl::Status WhyNotReserved(const MethodInfo& method,
                                              const absl::Status& refused) {
  if (absl::IsUnavailable(refused)) return absl::OkStatus();
  absl::Status status(refused.code(), absl::StrCat(method.name, ": ", refused.message()));
  if (transport::IsQueueFull(refused)) {
    status = WithRetryAfter(std::move(status), LoadLimits().retry_after);
  }
  return WithOutcome(status, CallOutcome::kNotSent);
}

}  // namespace

absl::string_view ChannelStateName(ChannelState state) {
  switch (state) {
    case ChannelState::kIdle:
      return "idle";
    case ChannelState::kConnecting:
      return "connecting";
    case ChannelState::kReady:
      return "ready";
    case ChannelState::kBackoff:
      return "waiting to reconnect";
    case ChannelState::kClosed:
      return "closed";
  }
  return "unknown";
}

absl::StatusOr<std::shared_ptr<Channel>> Channel::Create(absl::string_view endpoint,
                                                         const ChannelOptions& options) {
  absl::StatusOr<transport::Endpoint> parsed = transport::Endpoint::Parse(endpoint);
  if (!parsed.ok()) return parsed.status();
  if (absl::Status sound = CheckLimits(options.limits); !sound.ok()) return sound;
  if (absl::Status sound = CheckKeepalive(options.keepalive, options.idle_timeout); !sound.ok()) {
    return sound;
  }
  if (absl::Status sound = transport::CheckLocalOptions(options.local); !sound.ok()) return sound;
  ChannelOptions complete = options;
  if (complete.event_loop == nullptr) {
    absl::StatusOr<transport::EventLoop*> loop = SharedLoop();
    if (!loop.ok()) return loop.status();
    complete.event_loop = *loop;
  }
  if (complete.event_loop->forked()) return ForkGuard::Refusal("ChannelOptions::event_loop");
  return std::make_shared<Channel>(Private(), *parsed, complete);
}

Channel::Recovery::Recovery(const Channel& channel)
    : backoff(channel.settings_->backoff,
              reinterpret_cast<uintptr_t>(&channel) ^ static_cast<uint64_t>(MonotonicNanos())) {}

Channel::Channel(Private, const transport::Endpoint& endpoint, const ChannelOptions& options)
    : id_(next_channel_id.fetch_add(1, std::memory_order_relaxed)),
      endpoint_(ShareText(endpoint.ToString())),
      settings_(ShareSettings(options)),
      loop_(options.event_loop) {}

Channel::~Channel() {
  // Every call holds the channel, so none is in flight or queued.
  if (session_) session_->connection().Close(absl::OkStatus());
}

Channel::Recovery& Channel::recovery() {
  if (recovery_ == nullptr) recovery_ = std::make_unique<Recovery>(*this);
  return *recovery_;
}

void Channel::NotifyStateChanged() {
  if (recovery_ != nullptr) recovery_->state_changed.NotifyAll();
}

std::unique_ptr<Channel::Recovery> Channel::TakeIdleRecovery() {
  if (recovery_ == nullptr) return nullptr;
  std::erase_if(recovery_->departing,
                [](const std::weak_ptr<Session>& gone) { return gone.expired(); });
  return recovery_->idle() ? std::move(recovery_) : nullptr;
}

DeadlineQueue& Channel::deadlines() {
  MutexLock lock(&mutex_);
  if (!deadlines_) deadlines_ = DeadlineQueue::Create(loop_);
  return *deadlines_;
}

Channel::Retrying::Retrying(const Channel& channel)
    : budget(channel.settings_->retry.budget), timers(Timers::Create(channel.loop_)) {}

Channel::Retrying& Channel::retrying() {
  if (!retrying_) {
    retrying_ = std::make_unique<Retrying>(*this);
    if (state_ == ChannelState::kClosed) retrying_->timers->Hurry();  // Close found none
  }
  return *retrying_;
}

std::shared_ptr<Timers> Channel::timers() {
  MutexLock lock(&mutex_);
  return retrying().timers;
}

RetryBudget& Channel::retry_budget() {
  MutexLock lock(&mutex_);
  return retrying().budget;
}

bool Channel::InCallback() const {
  absl::InlinedVector<std::shared_ptr<Session>, 4> sessions;
  {
    MutexLock lock(&mutex_);
    sessions.push_back(session_);
    if (recovery_ != nullptr) {
      sessions.push_back(recovery_->next.lock());
      for (const std::weak_ptr<Session>& weak : recovery_->departing) {
        sessions.push_back(weak.lock());
      }
    }
  }
  return std::any_of(sessions.begin(), sessions.end(), [](const std::shared_ptr<Session>& session) {
    return session && session->connection().InCallback();
  });
}

std::shared_ptr<Session> Channel::ReadySession() const {
  MutexLock lock(&mutex_);
  return session_;
}

std::shared_ptr<Session> Channel::SessionForCall() const {
  // nullptr: the thread ends.
  LastSession* const last = ThreadKept<LastSession>::Get();
  if (last != nullptr && last->channel_id == id_) [[likely]] {
    std::shared_ptr<Session> session = last->session.lock();
    // One that sends no further calls may have a successor.
    if (session && !session->calls().stopped()) [[likely]]
      return session;
  }
  std::shared_ptr<Session> session = ReadySession();
  if (last == nullptr) return session;
  last->channel_id = id_;
  last->session = session;
  return session;
}

ClientCall* Channel::NewCall(const std::shared_ptr<Channel>& channel, const InterfaceInfo& service,
                             const MethodInfo& method, const CallOptions& options) {
  std::shared_ptr<Session> session;
  if (!channel->forked()) [[likely]]
    session = channel->SessionForCall();
  auto& guess = transport::SizeGuess::For(method.interface_id + method.method_id);
  absl::Status failure;
  transport::OutgoingMessage request;
  if (session) {
    absl::StatusOr<transport::OutgoingMessage> reserved =
        session->connection().Reserve(guess.bytes());
    if (reserved.ok()) [[likely]] {
      request = *std::move(reserved);
      request->size_guess = &guess;
    } else {
      failure = WhyNotReserved(method, reserved.status());
    }
  }
  if (!request) request = transport::NewHeapMessage(guess.bytes());
  ClientCall* const call =
      ClientCall::New(channel, std::move(session), service, method, options, std::move(request));
  if (!failure.ok()) [[unlikely]] {
    call->status_ = std::move(failure);
    call->failed_early_ = true;
  }
  if (!channel->settings_->interceptors.empty()) [[unlikely]]
    call->Intercept(channel->settings_->interceptors);
  return call;
}

bool Channel::KeepBytes(size_t bytes) {
  size_t kept = kept_bytes_.load(std::memory_order_relaxed);
  do {
    const size_t most = settings_->retry.kept_bytes_max;
    if (kept > most || bytes > most - kept) return false;
  } while (!kept_bytes_.compare_exchange_weak(kept, kept + bytes, std::memory_order_relaxed));
  return true;
}

void Channel::LetGoBytes(size_t bytes) {
  if (bytes != 0) kept_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

void Channel::StartCall(ClientCall* call) {
  absl::Status failure;
  bool for_good = true;
  bool connect = false;
  bool overtakes;
  {
    MutexLock lock(&mutex_);
    // Whoever gave it up has found it with no session and in no queue, and said that it was not
    // sent. Who does so from now on finds it in one of the two.
    if (call->claimed()) return;
    // It was told to send no further calls, and tells us in a moment.
    if (session_ && session_->calls().stopped()) LetDepartLocked(*session_);
    overtakes = call->Overtakes(moves());
    if (overtakes) {
      call->session_ = nullptr;
    } else if (call->session_ != session_) {
      call->session_ = session_;
    }
    if (!overtakes && !session_) {
      const bool waits =
          state_ != ChannelState::kBackoff ||
          call->WaitsToConnect(recovery().next_attempt.remaining(), recovery().hopeless);
      if (state_ == ChannelState::kClosed) {
        failure = absl::FailedPreconditionError("channel is closed");
      } else if (!waits) {
        failure = FailureWithAdvice(recovery().next_attempt.remaining());
      } else if (recovery().queue.size() >= limits().calls_in_flight_max) {
        for_good = false;
        failure = WithRetryAfter(
            absl::ResourceExhaustedError(absl::StrCat(
                recovery().queue.size(), " calls wait for the connection, calls_in_flight_max is ",
                limits().calls_in_flight_max)),
            LoadLimits().retry_after);
      } else {
        call->queued_ = true;
        call->Ref();
        std::list<ClientCall*>& queue = recovery().queue;
        call->queue_place_ = queue.insert(queue.end(), call);
        call->in_queue_ = true;
        connect = state_ == ChannelState::kIdle;
        if (connect) state_ = ChannelState::kConnecting;
      }
    }
  }
  if (overtakes) [[unlikely]]
    return call->Hold();
  if (connect) BeginConnect();
  if (call->queued_) return;
  if (!failure.ok()) {
    absl::Status not_sent = call->NotSent(failure);
    return for_good ? call->FailForGood(std::move(not_sent)) : call->Fail(std::move(not_sent));
  }
  // The session may have stopped meanwhile: then it is the next one's turn.
  if (!call->session_->calls().TrySend(call)) return StartCall(call);
  call->session_->NoteCall();
}

Channel::Withdrawn Channel::WithdrawCall(ClientCall* call) {
  if (forked()) return Withdrawn::kAfterSend;  // it is with the parent
  std::shared_ptr<Session> session;
  {
    MutexLock lock(&mutex_);
    if (std::exchange(call->in_queue_, false)) {
      recovery().queue.erase(call->queue_place_);
      call->Unref();  // the caller holds another
      return Withdrawn::kBeforeSend;
    }
    session = call->session_;
  }
  if (!session) return Withdrawn::kBeforeSend;
  return session->calls().Withdraw(call) ? Withdrawn::kBeforeSend : Withdrawn::kAfterSend;
}

absl::Status Channel::ForkedError() const {
  return ForkGuard::Refusal(absl::StrCat("channel to ", *endpoint_));
}

absl::Status Channel::Connect(Deadline deadline) {
  if (forked()) return ForkedError();
  bool connect = false;
  uint64_t ended_before;
  std::unique_ptr<Recovery> over;
  {
    MutexLock lock(&mutex_);
    if (state_ == ChannelState::kReady) return absl::OkStatus();
    if (loop_->InLoopThread()) {
      return absl::FailedPreconditionError(
          absl::StrCat(*endpoint_, ": Connect() on the event loop's thread would wait for itself"));
    }
    if (state_ == ChannelState::kIdle || state_ == ChannelState::kBackoff) {
      state_ = ChannelState::kConnecting;
      connect = true;
    }
    ended_before = recovery().attempts_ended;
    ++recovery().waiters;  // so that it stays
  }
  if (connect) BeginConnect();
  transport::Completion::FlushCallbacks();
  MutexLock lock(&mutex_);
  Recovery& own = recovery();
  const auto ended = [this, &own, ended_before]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (state_ == ChannelState::kReady || state_ == ChannelState::kClosed) return true;
    return own.attempts_ended != ended_before && state_ != ChannelState::kConnecting;
  };
  const bool in_time = own.state_changed.WaitUntil(mutex_, deadline, ended);
  --own.waiters;
  if (state_ == ChannelState::kReady) over = TakeIdleRecovery();
  if (!in_time) {
    return absl::DeadlineExceededError(
        absl::StrCat("connecting to ", *endpoint_, ": deadline passed"));
  }
  if (state_ == ChannelState::kReady) return absl::OkStatus();
  if (state_ == ChannelState::kClosed) return absl::FailedPreconditionError("channel is closed");
  if (!last_failure_.ok()) return last_failure_;
  return absl::UnavailableError(absl::StrCat(*endpoint_, ": the connection was lost at once"));
}

void Channel::Close() {
  if (forked()) return;
  std::shared_ptr<Session> session;
  std::vector<std::weak_ptr<Session>> departing;
  std::list<ClientCall*> queue;
  std::stop_source attempt(std::nostopstate);
  std::shared_ptr<Timers> timers;
  {
    MutexLock lock(&mutex_);
    state_ = ChannelState::kClosed;
    if (retrying_ != nullptr) timers = retrying_->timers;
    NotifyStateChanged();
    session = std::move(session_);
    session_ = nullptr;
    if (session) recovery().departing.push_back(session);
    if (recovery_ != nullptr) {
      attempt.swap(recovery_->cancel);
      departing = recovery_->departing;
      queue.swap(recovery_->queue);
      for (ClientCall* call : queue) call->in_queue_ = false;
      if (recovery_->backoff_timer) recovery_->backoff_timer->Cancel();
    }
  }
  attempt.request_stop();
  // Calls that wait for their next attempt find that the channel is closed.
  if (timers) timers->Hurry();
  // session is among them.
  for (const std::weak_ptr<Session>& weak : departing) {
    const std::shared_ptr<Session> left = weak.lock();
    if (!left) continue;
    left->calls().StopForClose();
    left->connection().Close(absl::OkStatus());
  }
  for (ClientCall* call : queue) {
    call->Fail(
        WithOutcome(absl::CancelledError(absl::StrCat(call->method().name, ": channel was closed")),
                    CallOutcome::kNotSent));
    call->Unref();
  }
}

ChannelState Channel::state() const {
  if (forked()) return ChannelState::kClosed;
  MutexLock lock(&mutex_);
  return state_;
}

std::string Channel::transport() const {
  if (forked()) return std::string();
  const std::shared_ptr<Session> session = ReadySession();
  return session ? session->connection().info().transport : std::string();
}

std::string Channel::DescribeSession(Session& session) const {
  const transport::ConnectionInfo info = session.connection().info();
  return absl::StrCat(", calls go over ", info.transport, " to ", info.peer,
                      why_not_better_ == nullptr
                          ? std::string()
                          : absl::StrCat("; no shared memory: ", *why_not_better_));
}

std::string Channel::Describe() const {
  if (forked()) return std::string(ForkedError().message());
  MutexLock lock(&mutex_);
  std::string text = absl::StrCat(*endpoint_, ": ", ChannelStateName(state_));
  if (session_) absl::StrAppend(&text, DescribeSession(*session_));
  if (!last_failure_.ok()) absl::StrAppend(&text, " (last failure: ", last_failure_.message(), ")");
  return text;
}

}  // namespace mi7
