#include "transport/slot_pipe/async_slot_pipe.h"

#include <algorithm>
#include <list>
#include <thread>
#include <type_traits>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/mutex.h"
#include "transport/slot_pipe/slot_pipe_impl.h"

namespace mi7 {
namespace slot_pipe_internal {
namespace {

// One wait of the thread at most; then it looks at its queue again. A coroutine that comes while
// the thread waits for an earlier one and has an earlier deadline ends its wait (Interrupt).
constexpr int64_t kForeverNs = std::numeric_limits<int64_t>::max();

// A message that nobody saw goes back as if it had not been fetched; a held slot by itself.
void PutBack(WriteSlot&) {}
void PutBack(ReadSlot& slot) { slot.ReturnUnseen().IgnoreError(); }

}  // namespace

// The coroutines that wait in one direction, and the thread that waits for them.
template <typename Slot>
class AsyncQueue {
 public:
  AsyncQueue(SlotPipe* pipe, SlotPipe::Impl* impl, transport::EventLoop* loop)
      : pipe_(pipe), impl_(impl), loop_(loop) {}

  ~AsyncQueue() {
    {
      MutexLock lock(&mutex_);
      stopped_ = true;
      changed_.NotifyAll();
    }
    Interrupt();
    if (thread_.joinable()) thread_.join();
  }

  // In a forked child nothing below is: whoever held the lock is not there.
  absl::Status Usable() const { return impl_->Usable(); }

  absl::StatusOr<Slot> Try() {
    if constexpr (std::is_same_v<Slot, WriteSlot>) {
      return pipe_->TryHold();
    } else {
      return pipe_->TryFetch();
    }
  }

  // Whether `status` only says that there is nothing at this moment.
  static bool IsNothing(const absl::Status& status) {
    return std::is_same_v<Slot, WriteSlot> ? absl::IsResourceExhausted(status)
                                           : absl::IsUnavailable(status);
  }

  // Who waits is served first.
  bool AnybodyWaits() {
    MutexLock lock(&mutex_);
    return !waiting_.empty();
  }

  bool AnybodyListens() {
    MutexLock lock(&mutex_);
    return !listeners_.empty();
  }

  // `awaiter` may be resumed, and gone, before it returns.
  void Add(SlotAwaiter<Slot>* awaiter) {
    bool earlier;
    {
      MutexLock lock(&mutex_);
      awaiter->place_ = waiting_.insert(waiting_.end(), awaiter);
      earlier = awaiter->deadline_.at_ns() < sleeping_until_ns_;
      StartThread();
      changed_.NotifyAll();
    }
    if (earlier) Interrupt();
  }

  // If it is still in the queue. Its thread is not woken for that.
  void Remove(SlotAwaiter<Slot>* awaiter) {
    if (!Usable().ok()) return;
    MutexLock lock(&mutex_);
    if (awaiter->place_.has_value()) waiting_.erase(*awaiter->place_);
  }

  void Watch(PipeListener* listener) {
    // A thread that is asleep for others is woken by what this one waits for, too.
    MutexLock lock(&mutex_);
    listeners_.push_back(listener);
    StartThread();
    changed_.NotifyAll();
  }

  void Unwatch(PipeListener* listener) {
    if (!Usable().ok()) return;
    MutexLock lock(&mutex_);
    listeners_.erase(std::remove(listeners_.begin(), listeners_.end(), listener), listeners_.end());
  }

 private:
  using Waiting = std::list<SlotAwaiter<Slot>*>;

  static constexpr Direction kDirection =
      std::is_same_v<Slot, WriteSlot> ? Direction::kHold : Direction::kFetch;
  // What a deadline was too early for.
  static constexpr SlotPipeError kNothing =
      kDirection == Direction::kHold ? SlotPipeError::kPipeFull : SlotPipeError::kPipeEmpty;
  Event& event() { return impl_->event(kDirection); }
  // Ends a sleep of the thread, and spuriously those of others.
  void Interrupt() { event().NotifyAll(); }

  // Hands `result` to the coroutine, on the loop.
  void Resume(std::shared_ptr<SlotAwaiter<Slot>*> awaiter, absl::StatusOr<Slot> result) {
    loop_->Post([awaiter = std::move(awaiter), result = std::move(result)]() mutable {
      if (*awaiter == nullptr) {
        if (result.ok()) PutBack(*result);
        return;
      }
      (*awaiter)->self_ = nullptr;
      (*awaiter)->result_.emplace(std::move(result));
      (*awaiter)->coroutine_.resume();
    });
  }

  // From here on its awaiter is only touched on the loop, where it may be gone.
  std::shared_ptr<SlotAwaiter<Slot>*> Take(typename Waiting::iterator place)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    SlotAwaiter<Slot>* const awaiter = *place;
    waiting_.erase(place);
    awaiter->place_.reset();
    return awaiter->self_;
  }

  // Resumes everybody who is due for it: those whose deadline has passed, or all. Returns the
  // earliest deadline of the others.
  int64_t Expire(bool all, const absl::Status& why) {
    std::vector<std::shared_ptr<SlotAwaiter<Slot>*>> due;
    int64_t next_ns = kForeverNs;
    {
      MutexLock lock(&mutex_);
      const int64_t now_ns = MonotonicNanos();
      for (auto it = waiting_.begin(); it != waiting_.end();) {
        const auto current = it++;
        const int64_t deadline_ns = (*current)->deadline_.at_ns();
        if (all || deadline_ns <= now_ns) {
          due.push_back(Take(current));
        } else {
          next_ns = std::min(next_ns, deadline_ns);
        }
      }
      sleeping_until_ns_ = next_ns;
    }
    for (auto& one : due) Resume(std::move(one), why);
    return next_ns;
  }

  void StartThread() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }

  // All of them: who is first gets it.
  void TellListeners() {
    MutexLock lock(&mutex_);
    for (PipeListener* const listener : listeners_) listener->OnMayHave();
    listeners_.clear();
  }

  std::shared_ptr<SlotAwaiter<Slot>*> PopFirst() {
    MutexLock lock(&mutex_);
    return waiting_.empty() ? nullptr : Take(waiting_.begin());
  }

  void Run() {
    bool slept = false;
    for (;;) {
      {
        MutexLock lock(&mutex_);
        if (waiting_.empty()) sleeping_until_ns_ = kForeverNs;
        if (slept && waiting_.empty() && listeners_.empty()) {
          // Those for whom it slept are gone. The wake may have been meant for others, who are not
          // declared any more.
          event().Declare();
          event().Notify();
          slept = false;
        }
        changed_.WaitUntil(mutex_, Deadline::Infinite(), [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
          return stopped_ || !waiting_.empty() || !listeners_.empty();
        });
        if (stopped_) return;
      }
      // As in SlotPipe::Impl::Wait: declared before looking (event.h).
      const uint32_t ticket = event().Declare();
      const bool listening = AnybodyListens();
      if (listening && (slept || impl_->MayHave(kDirection) || pipe_->cancelled())) {
        TellListeners();
        if (slept) event().Notify();  // the wake may have been meant for two
        slept = false;
        continue;
      }
      if (listening && !AnybodyWaits()) {
        event().Sleep(ticket, kLookAgainNs);
        slept = true;
        continue;
      }
      absl::StatusOr<Slot> result = Try();
      if (result.ok()) {
        auto first = PopFirst();
        if (first == nullptr) {
          PutBack(*result);
          continue;
        }
        Resume(std::move(first), std::move(result));
        if (slept) event().Notify();  // the wake may have been meant for two
        continue;
      }
      if (!IsNothing(result.status())) {
        // It belongs to one message, as that of a checksum does, so one coroutine gets it, as one
        // thread in SlotPipe::Fetch would. What is wrong for ever is found again for the next.
        if (auto first = PopFirst(); first != nullptr) {
          Resume(std::move(first), result.status());
        }
        if (slept) event().Notify();  // there may be more behind it
        continue;
      }
      // Acquire: Cancel() changes the event's word after it, as for a sleeper.
      if (impl_->cancelled.load(std::memory_order_acquire)) {
        Expire(true, AboutPipe(impl_->name, SlotPipeError::kCancelled,
                               absl::CancelledError("Cancel() was called")));
        continue;
      }
      const int64_t next_ns =
          Expire(false, AboutPipe(impl_->name, kNothing,
                                  absl::DeadlineExceededError("nothing came within the deadline")));
      const int64_t left_ns =
          next_ns == kForeverNs ? kLookAgainNs : std::max<int64_t>(1, next_ns - MonotonicNanos());
      if (AnybodyWaits()) event().Sleep(ticket, std::min(left_ns, kLookAgainNs));
      slept = true;
      impl_->MaybeRecover();
    }
  }

  SlotPipe* const pipe_;
  SlotPipe::Impl* const impl_;
  transport::EventLoop* const loop_;
  Mutex mutex_;
  CondVar changed_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  Waiting waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<PipeListener*> listeners_ ABSL_GUARDED_BY(mutex_);
  // The first deadline that the thread knows of.
  int64_t sleeping_until_ns_ ABSL_GUARDED_BY(mutex_) = kForeverNs;
  std::thread thread_;  // started under mutex_, once; joined when nobody can start it any more
};

template <typename Slot>
SlotAwaiter<Slot>::~SlotAwaiter() {
  if (self_ == nullptr) return;
  queue_->Remove(this);
  *self_ = nullptr;
}

template <typename Slot>
bool SlotAwaiter<Slot>::await_ready() {
  if (absl::Status usable = queue_->Usable(); !usable.ok()) {
    result_.emplace(std::move(usable));
    return true;
  }
  if (queue_->AnybodyWaits()) return false;
  absl::StatusOr<Slot> result = queue_->Try();
  if (!result.ok() && AsyncQueue<Slot>::IsNothing(result.status())) return false;
  result_.emplace(std::move(result));
  return true;
}

template <typename Slot>
void SlotAwaiter<Slot>::await_suspend(std::coroutine_handle<> coroutine) {
  coroutine_ = coroutine;
  self_ = std::make_shared<SlotAwaiter*>(this);
  queue_->Add(this);
}

absl::Status SendAwaiter::await_resume() {
  if (!fits_.ok()) return fits_;
  absl::StatusOr<WriteSlot> slot = slot_.await_resume();
  return slot.ok() ? slot->SendBytes(bytes_) : slot.status();
}

template class AsyncQueue<WriteSlot>;
template class AsyncQueue<ReadSlot>;
template class SlotAwaiter<WriteSlot>;
template class SlotAwaiter<ReadSlot>;

}  // namespace slot_pipe_internal

using slot_pipe_internal::AsyncQueue;
using slot_pipe_internal::Direction;
using slot_pipe_internal::PipeListener;
using slot_pipe_internal::SendAwaiter;
using slot_pipe_internal::SlotAwaiter;

AsyncSlotPipe::AsyncSlotPipe(SlotPipe* pipe, transport::EventLoop* loop)
    : pipe_(pipe),
      hold_(std::make_unique<AsyncQueue<WriteSlot>>(pipe, pipe->impl_.get(), loop)),
      fetch_(std::make_unique<AsyncQueue<ReadSlot>>(pipe, pipe->impl_.get(), loop)) {}

AsyncSlotPipe::~AsyncSlotPipe() {
  if (pipe_->impl_->Usable().ok()) return;
  // The threads to be joined are not there.
  static_cast<void>(hold_.release());
  static_cast<void>(fetch_.release());
}

void AsyncSlotPipe::Watch(Direction direction, PipeListener* listener) {
  direction == Direction::kHold ? hold_->Watch(listener) : fetch_->Watch(listener);
}

void AsyncSlotPipe::Unwatch(Direction direction, PipeListener* listener) {
  direction == Direction::kHold ? hold_->Unwatch(listener) : fetch_->Unwatch(listener);
}

SlotAwaiter<WriteSlot> AsyncSlotPipe::Hold(Deadline deadline) {
  return SlotAwaiter<WriteSlot>(hold_.get(), deadline);
}

SendAwaiter AsyncSlotPipe::SendBytes(absl::string_view bytes, Deadline deadline) {
  return SendAwaiter(pipe_->impl_->Fits(bytes.size()), hold_.get(), bytes, deadline);
}

SlotAwaiter<ReadSlot> AsyncSlotPipe::Fetch(Deadline deadline) {
  return SlotAwaiter<ReadSlot>(fetch_.get(), deadline);
}

}  // namespace mi7
