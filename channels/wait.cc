#include "channels/wait.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "transport/spin_budget.h"

namespace mi7::channels_internal {

// --- of threads

int ThreadWait::Await(Deadline deadline) {
  // Of the thread: what its waits were like lately tells best what the next one will be.
  static thread_local transport::SpinBudget budget;
  const int64_t start_ns = MonotonicNanos();
  const int64_t budget_ns = std::min(budget.Begin(), deadline.remaining_ns());
  for (uint32_t polls = 1; budget_ns != 0 && !done_.done(); ++polls) {
    if (polls > 64) {
      ::sched_yield();
    } else {
      transport::CpuPause();
    }
    if (polls % 32 == 0 && MonotonicNanos() - start_ns > budget_ns) break;
  }
  const bool in_time = done_.Sleep(deadline) == transport::Completion::Woken::kDone;
  budget.End(budget_ns, MonotonicNanos() - start_ns);
  return in_time ? outcome_ : End(kDeadline);
}

int ThreadWait::End(int outcome) {
  if (Claim()) return outcome;
  // Whoever has claimed it is about to finish it, and waits for nothing before that.
  done_.Sleep(Deadline::Infinite());
  return outcome_;
}

// --- of coroutines

void CoroutineWait::EndAt(Deadline deadline) {
  if (deadline.infinite()) return;
  timer_.emplace(loop_, [weak = weak_from_this()] {
    const std::shared_ptr<CoroutineWait> wait = weak.lock();
    if (wait != nullptr && wait->ClaimToFinish()) wait->Finish(kDeadline);
  });
  timer_->Schedule(deadline);
}

void CoroutineWait::Finish(int outcome) {
  outcome_ = outcome;
  std::shared_ptr<CoroutineWait> self = std::move(self_);
  // Release: the outcome, for Suspend. Acquire: what Suspend's thread has done before.
  if (stage_.exchange(kFinished, std::memory_order_acq_rel) == kEntering) return;
  transport::EventLoop* const loop = loop_;
  loop->Post([self = std::move(self)] {
    if (self->suspended_ != nullptr) self->suspended_->OnFinished();
  });
}

bool CoroutineWait::Suspend() {
  int stage = kEntering;
  // Release: the coroutine's state, for the loop's thread, which resumes it. Acquire: the outcome.
  return stage_.compare_exchange_strong(stage, kSuspended, std::memory_order_acq_rel,
                                        std::memory_order_acquire);
}

void CoroutineWait::Abandon() {
  suspended_ = nullptr;
  Claim();
}

// --- lists

void EntryList::Add(Entry& entry) {
  entry.previous = last_;
  entry.next = nullptr;
  (last_ != nullptr ? last_->next : first_) = &entry;
  last_ = &entry;
  entry.listed = true;
}

void EntryList::Remove(Entry& entry) {
  if (!entry.listed) return;
  (entry.previous != nullptr ? entry.previous->next : first_) = entry.next;
  (entry.next != nullptr ? entry.next->previous : last_) = entry.previous;
  entry.listed = false;
}

Entry* EntryList::ClaimFirst(Claimed& claimed) {
  while (first_ != nullptr) {
    Entry* const entry = first_;
    Remove(*entry);
    if (!entry->wait->ClaimToFinish()) continue;  // it is leaving
    claimed = {entry->wait, entry->index};
    return entry;
  }
  return nullptr;
}

void EntryList::ClaimAll(ClaimedList& claimed) {
  Claimed one;
  while (ClaimFirst(one) != nullptr) {
    claimed.push_back({one.wait, Wait::kLookAgain});
  }
}

}  // namespace mi7::channels_internal
