#include "transport/driver.h"

#include "base/check.h"

namespace mi7::transport {

void DriverToken::List(Completion& waiter) {
  MutexLock lock(&mutex_);
  MI7_CHECK(!waiter.listed_, "a Completion waits on one connection at a time");
  waiter.listed_ = true;
  if (first_ == nullptr) {
    waiter.previous_ = waiter.next_ = &waiter;
    first_ = &waiter;
  } else {
    Completion* const last = first_->previous_;
    waiter.previous_ = last;
    waiter.next_ = first_;
    last->next_ = &waiter;
    first_->previous_ = &waiter;
  }
  waiters_.fetch_add(1, std::memory_order_seq_cst);  // W1
}

void DriverToken::Unlist(Completion& waiter) {
  {
    MutexLock lock(&mutex_);
    MI7_CHECK(waiter.listed_, "Unlist follows List");
    waiter.listed_ = false;
    if (waiter.next_ == &waiter) {
      first_ = nullptr;
    } else {
      waiter.previous_->next_ = waiter.next_;
      waiter.next_->previous_ = waiter.previous_;
      if (first_ == &waiter) first_ = waiter.next_;
    }
    waiter.previous_ = waiter.next_ = nullptr;
    waiters_.fetch_sub(1, std::memory_order_seq_cst);
  }
  // A driver's own Unlist finds the token held (by itself) and leaves the offer to its Release.
  if (!held() && waiters_.load(std::memory_order_seq_cst) != 0) OfferTurn();
}

void DriverToken::OfferTurn() {
  // Under the mutex no listed Completion is destroyed, done or not: its waiter must unlist first.
  MutexLock lock(&mutex_);
  Completion* waiter = first_;
  if (waiter == nullptr) return;
  do {
    if (!waiter->done()) {
      waiter->OfferTurn();
      return;
    }
    waiter = waiter->next_;
  } while (waiter != first_);
}

}  // namespace mi7::transport
