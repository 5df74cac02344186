#include "rpc/liveness_watch.h"

#include <algorithm>
#include <utility>

#include "base/deadline.h"
#include "rpc/session.h"

namespace mi7 {
namespace {

// In the shortest of the times that are kept. What is kept is late by one look at most.
constexpr int kLooks = 4;
constexpr absl::Duration kIntervalLeast = absl::Milliseconds(1);
// What fits Session::Looks::quiet, and unanswered, which goes one further.
constexpr uint16_t kLooksMost = 0x7fff;
constexpr uint16_t kAnswerLooksMost = 0x3ffe;
// What a client has at least that is asked to close: an honest one does, and makes no call
// meanwhile that could be lost when it is closed after all.
constexpr absl::Duration kGoingTime = absl::Seconds(10);

uint16_t LooksIn(absl::Duration time, absl::Duration interval, uint16_t most) {
  if (time == absl::InfiniteDuration()) return 0;
  return static_cast<uint16_t>(std::clamp<int64_t>(absl::Ceil(time, interval) / interval, 1, most));
}

}  // namespace

LivenessWatch::LivenessWatch(const Keepalive& keepalive, absl::Duration idle_timeout)
    : keepalive_(keepalive), idle_timeout_(idle_timeout) {
  absl::Duration shortest = idle_timeout;
  if (keepalive.enabled()) shortest = std::min({shortest, keepalive.interval, keepalive.timeout});
  interval_ = std::max(shortest / kLooks, kIntervalLeast);
  if (keepalive.enabled()) {
    ping_looks_ = LooksIn(keepalive.interval, interval_, kLooksMost);
    answer_looks_ = LooksIn(keepalive.timeout, interval_, kAnswerLooksMost);
  }
  idle_looks_ = LooksIn(idle_timeout, interval_, kLooksMost);
  going_looks_ = LooksIn(std::max(idle_timeout, kGoingTime), interval_, kLooksMost);
}

std::shared_ptr<LivenessWatch> LivenessWatch::Create(transport::EventLoop* loop,
                                                     const Keepalive& keepalive,
                                                     absl::Duration idle_timeout) {
  if (!keepalive.enabled() && idle_timeout == absl::InfiniteDuration()) return nullptr;
  std::shared_ptr<LivenessWatch> watch(new LivenessWatch(keepalive, idle_timeout));
  MutexLock lock(&watch->mutex_);
  watch->timer_ = std::make_unique<transport::EventLoop::Timer>(
      loop, [weak = std::weak_ptr<LivenessWatch>(watch)] {
        if (const std::shared_ptr<LivenessWatch> self = weak.lock()) self->Look();
      });
  return watch;
}

void LivenessWatch::Add(std::weak_ptr<Session> session) {
  MutexLock lock(&mutex_);
  if (closed_) return;
  watched_.push_back(std::move(session));
  Arm();
}

void LivenessWatch::Close() {
  std::deque<std::weak_ptr<Session>> dropped;
  std::unique_ptr<transport::EventLoop::Timer> timer;
  MutexLock lock(&mutex_);
  closed_ = true;
  dropped.swap(watched_);
  timer = std::move(timer_);
}

void LivenessWatch::Arm() {
  if (closed_ || armed_ || watched_.empty()) return;
  armed_ = true;
  timer_->Schedule(Deadline::After(interval_));
}

void LivenessWatch::Look() {
  // Taken out meanwhile: what is done with a session may bring further ones, under locks that come
  // before ours.
  {
    MutexLock lock(&mutex_);
    armed_ = false;
    looked_at_.swap(watched_);
  }
  std::erase_if(looked_at_, [this](const std::weak_ptr<Session>& watched) {
    const std::shared_ptr<Session> session = watched.lock();
    return session == nullptr || !LookAt(*session);
  });
  MutexLock lock(&mutex_);
  if (!closed_) {
    looked_at_.swap(watched_);
    for (std::weak_ptr<Session>& added : looked_at_) watched_.push_back(std::move(added));
  }
  looked_at_.clear();
  Arm();
}

bool LivenessWatch::LookAt(Session& session) {
  Session::Looks& looks = session.looks();
  // While a handler runs inline nothing is read, whatever has arrived.
  if (session.TakeSignsOfLife() || session.answering()) {
    looks.quiet = looks.unanswered = looks.going = 0;
    looks.used = 1;
    return true;
  }
  if (looks.quiet != kLooksMost) ++looks.quiet;
  if (session.has_calls()) {
    looks.going = 0;
    if (ping_looks_ == 0 || looks.may_be_half_open == 0) return true;
    if (looks.unanswered != 0) {
      if (answer_looks_ == 0 || looks.unanswered++ < answer_looks_) return true;
      session.GiveUpPeer(keepalive_);
      return false;
    }
    if (looks.quiet >= ping_looks_) {
      looks.unanswered = 1;
      session.Ping();
    }
    return true;
  }
  looks.unanswered = 0;
  if (idle_looks_ == 0) return !session.StopWatching();
  // One that is new has the longer time, too: its first call may be on its way.
  const bool patient = looks.going != 0 || looks.used == 0;
  if (looks.quiet < (patient ? going_looks_ : idle_looks_)) return true;
  looks.quiet = 0;
  // Who has answers to read has calls. How long they may wait is Limits::write_stall_timeout's
  // affair.
  if (session.has_unsent()) return true;
  const bool asked = looks.going != 0;
  looks.going = 1;
  session.EndIdle(asked);
  return true;
}

}  // namespace mi7
