#include "rpc/timers.h"

namespace mi7 {

std::shared_ptr<Timers> Timers::Create(transport::EventLoop* loop) {
  std::shared_ptr<Timers> timers(new Timers);
  MutexLock lock(&timers->mutex_);
  timers->timer_ =
      std::make_unique<transport::EventLoop::Timer>(loop, [weak = std::weak_ptr<Timers>(timers)] {
        if (std::shared_ptr<Timers> self = weak.lock()) self->OnTime();
      });
  return timers;
}

Timers::Handle Timers::Schedule(Deadline at, absl::AnyInvocable<void()> fire) {
  if (at.infinite()) return {};
  MutexLock lock(&mutex_);
  if (closed_) return {};
  const Handle handle{at.at_ns(), ++last_number_};
  waiting_.emplace(handle, std::move(fire));
  Arm();
  return handle;
}

bool Timers::Cancel(Handle timer) {
  absl::AnyInvocable<void()> fire;  // destroyed without the lock: it may hold the last reference
  MutexLock lock(&mutex_);
  const auto found = waiting_.find(timer);
  if (found == waiting_.end()) return false;
  fire = std::move(found->second);
  waiting_.erase(found);
  return true;
}

void Timers::Hurry() {
  MutexLock lock(&mutex_);
  hurries_ = true;
  if (!closed_) Arm();
}

void Timers::Close() {
  std::map<Handle, absl::AnyInvocable<void()>> dropped;
  std::unique_ptr<transport::EventLoop::Timer> timer;
  MutexLock lock(&mutex_);
  closed_ = true;
  dropped.swap(waiting_);
  timer = std::move(timer_);
}

void Timers::Arm() {
  Deadline first = Deadline::Infinite();
  if (!waiting_.empty()) first = Deadline::AtNanos(hurries_ ? 0 : waiting_.begin()->first.at_ns);
  if (first >= armed_) return;
  armed_ = first;
  timer_->Schedule(first);
}

void Timers::OnTime() {
  for (;;) {
    absl::AnyInvocable<void()> fire;
    {
      MutexLock lock(&mutex_);
      if (closed_) return;
      if (waiting_.empty() ||
          (!hurries_ && !Deadline::AtNanos(waiting_.begin()->first.at_ns).passed())) {
        armed_ = Deadline::Infinite();
        Arm();
        return;
      }
      fire = std::move(waiting_.begin()->second);
      waiting_.erase(waiting_.begin());
    }
    fire();
  }
}

}  // namespace mi7
