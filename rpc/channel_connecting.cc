// How a channel gets and loses its connections.

#include <algorithm>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "rpc/call_outcome.h"
#include "rpc/channel.h"
#include "rpc/client_call.h"
#include "rpc/retry_info.h"
#include "transport/transports.h"

namespace mi7 {
namespace {

// Why calls fail when a connection attempt did. That the attempt took too long says nothing about
// the deadlines of the calls.
absl::Status ConnectFailure(const absl::Status& status) {
  return absl::IsDeadlineExceeded(status) ? absl::UnavailableError(status.message()) : status;
}

}  // namespace

void Channel::BeginConnect() {
  transport::TransportOptions options;
  options.limits = limits();
  options.wait = settings_->wait;
  options.local = settings_->local;
  {
    MutexLock lock(&mutex_);
    if (state_ == ChannelState::kClosed) return;
    std::stop_source& cancel = recovery().cancel;
    cancel = std::stop_source();
    options.cancel = cancel.get_token();
  }
  const absl::StatusOr<transport::Endpoint> endpoint = transport::Endpoint::Parse(*endpoint_);
  MI7_CHECK(endpoint.ok(), "an endpoint's text is parsed as that endpoint");
  // Shared, not weak: the attempt ends by itself within its deadline, or when it is cancelled, and
  // its result has a home.
  transport::ConnectExplained(
      *endpoint, loop_, options, Deadline::After(settings_->connect_timeout),
      [self = shared_from_this()](absl::StatusOr<std::shared_ptr<transport::Connection>> connection,
                                  std::string why) {
        self->OnConnectDone(std::move(connection), std::move(why));
      });
}

void Channel::OnConnectDone(absl::StatusOr<std::shared_ptr<transport::Connection>> connection,
                            std::string why_not_better) {
  if (connection.ok() && settings_->decorator != nullptr) [[unlikely]] {
    auto decorated = settings_->decorator->Decorate(*connection, loop_);
    if (!decorated.ok()) (*connection)->Close(decorated.status());
    connection = std::move(decorated);
  }
  std::shared_ptr<Session> session;
  if (connection.ok()) {
    session = std::make_shared<Session>(
        *connection, weak_from_this(),
        std::shared_ptr<const SessionConfig>(settings_, &settings_->session));
  }
  std::list<ClientCall*> failed;
  absl::Status failure;
  std::string news;
  bool closed;
  {
    MutexLock lock(&mutex_);
    Recovery& own = recovery();
    ++own.attempts_ended;
    own.cancel = std::stop_source(std::nostopstate);
    closed = state_ == ChannelState::kClosed;
    if (session && !closed) {
      own.next = session;
      own.backoff.Reset();
      last_failure_ = absl::OkStatus();
      why_not_better_ = why_not_better.empty()
                            ? nullptr
                            : std::make_unique<const std::string>(std::move(why_not_better));
      news = absl::StrCat(*endpoint_, ": connected", DescribeSession(*session));
    } else if (!closed) {
      state_ = ChannelState::kBackoff;
      NotifyStateChanged();
      last_failure_ = ConnectFailure(connection.status());
      // A server, or system, that is full has room again some time.
      own.hopeless =
          !absl::IsUnavailable(last_failure_) && !absl::IsResourceExhausted(last_failure_);
      const absl::Duration wait = own.backoff.Next();
      failure = FailureWithAdvice(wait);
      for (auto next = own.queue.begin(); next != own.queue.end();) {
        const auto place = next++;
        ClientCall& call = **place;
        // Saturates: those that wait for ready may wait for ever.
        if (call.connects_failed_ != UINT8_MAX) ++call.connects_failed_;
        if (call.WaitsToConnect(wait, own.hopeless)) continue;
        call.in_queue_ = false;
        failed.splice(failed.end(), own.queue, place);
      }
      if (!own.backoff_timer) {
        own.backoff_timer =
            std::make_unique<transport::EventLoop::Timer>(loop_, [weak = weak_from_this()] {
              if (std::shared_ptr<Channel> self = weak.lock()) self->OnBackoffOver();
            });
      }
      own.next_attempt = Deadline::After(wait);
      own.backoff_timer->Schedule(own.next_attempt);
    }
  }
  if (!news.empty()) Log(LogLevel::kInfo, news);
  if (session) (*connection)->Start(session);
  if (session && closed) (*connection)->Close(absl::OkStatus());
  if (session && !closed) SendQueued(session);
  for (ClientCall* call : failed) {
    call->FailForGood(call->NotSent(failure));
    call->Unref();
  }
}

absl::Status Channel::FailureWithAdvice(absl::Duration wait) const {
  // A server, or this system, that is full: when there may be room is told as for any other excess.
  if (!absl::IsResourceExhausted(last_failure_)) return last_failure_;
  return WithRetryAfter(last_failure_, std::max(wait, absl::ZeroDuration()));
}

void Channel::SendQueued(const std::shared_ptr<Session>& session) {
  for (;;) {
    ClientCall* call;
    std::unique_ptr<Recovery> over;
    {
      MutexLock lock(&mutex_);
      if (state_ == ChannelState::kClosed) break;
      Recovery& own = recovery();
      if (own.queue.empty()) {
        // Only now do new calls go past the queue, so calls leave in the order they were made.
        state_ = ChannelState::kReady;
        session_ = session;
        own.next.reset();
        NotifyStateChanged();
        over = TakeIdleRecovery();
        return;
      }
      call = own.queue.front();
      own.queue.pop_front();
      call->in_queue_ = false;
      call->session_ = session;
      call->background_ = true;  // whoever waits for it is not in Connection::Await
    }
    session->calls().Send(call);
    session->NoteCall();
    call->Unref();
  }
  // Close came between, and did not know this connection.
  session->calls().StopForClose();
  session->connection().Close(absl::OkStatus());
}

void Channel::OnBackoffOver() {
  {
    MutexLock lock(&mutex_);
    if (state_ != ChannelState::kBackoff) return;
    state_ = recovery().queue.empty() ? ChannelState::kIdle : ChannelState::kConnecting;
    if (state_ == ChannelState::kIdle) return;
  }
  BeginConnect();
}

void Channel::ForgetSessionLocked(Session& session) {
  if (session_.get() != &session) return;
  session_ = nullptr;
  moves_.store(static_cast<uint16_t>(moves() + 1), std::memory_order_relaxed);
  if (state_ == ChannelState::kReady) state_ = ChannelState::kIdle;
  NotifyStateChanged();
}

void Channel::LetDepartLocked(Session& session) {
  std::vector<std::weak_ptr<Session>>& departing = recovery().departing;
  std::erase_if(departing, [&session](const std::weak_ptr<Session>& gone) {
    const std::shared_ptr<Session> left = gone.lock();
    return left == nullptr || left.get() == &session;
  });
  departing.push_back(session.weak_from_this());
  ForgetSessionLocked(session);
}

void Channel::OnGoAway(Session& session) {
  // Both under one lock: Close, at any moment, finds the session in one of the two places.
  MutexLock lock(&mutex_);
  LetDepartLocked(session);
}

void Channel::OnSessionClosed(Session& session, const absl::Status& why) {
  MutexLock lock(&mutex_);
  LetDepartLocked(session);  // its last callbacks are still to come
  // In kBackoff it is not why calls fail: the last attempt to connect has failed since.
  if (!why.ok() && state_ != ChannelState::kBackoff) last_failure_ = why;
}

}  // namespace mi7
