#include "transport/slot_pipe/interleaving/explorer.h"

#include <ucontext.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "base/check.h"
#include "transport/slot_pipe/interleaving/stepped_atomic.h"
#include "transport/slot_pipe/interleaving/weak_memory.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr size_t kStackBytes = 64 << 10;
// Of one order. More mean that somebody goes round in circles.
constexpr uint64_t kStepsMax = 100'000;

// A fibre of this thread, which runs between two switches to and from the explorer's context.
struct Actor {
  std::function<void()> work;
  std::function<bool()> waits_for;  // empty: for nothing
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t context;
  bool ended = false;
};

class Explorer {
 public:
  explicit Explorer(const Bounds& bounds) : bounds_(bounds) { active_ = this; }
  ~Explorer() { active_ = nullptr; }

  Explored All(const std::function<Run()>& start) {
    do {
      TakeOneOrder(start());
      ++explored_.orders;
    } while (explored_.wrong.empty() && NextOrder());
    return explored_;
  }

  static Explorer* active() { return active_; }

  // Of the actor that runs: lets others go before it, or not.
  void Step() {
    if (running_ == nullptr || choosing_ || one_step_) return;
    ++explored_.steps;
    if (++steps_ > kStepsMax) {
      wrong_ = "somebody goes round in circles";
      return Leave();
    }
    if (Choose() != running_) Leave();
  }
  void Wait(std::function<bool()> condition) {
    running_->waits_for = std::move(condition);
    if (Choose() != running_) Leave();
  }
  bool killed() const { return killed_; }
  void AsOneStep(const std::function<void()>& work) {
    Step();
    one_step_ = true;
    work();
    one_step_ = false;
  }

  // Memory orders count for the steps of actors, not for what is done before, after and between.
  bool memory_is_weak() const {
    return bounds_.stale_loads >= 0 && running_ != nullptr && !choosing_;
  }
  uint64_t Read(const void* location, uint64_t last, std::memory_order order) {
    const uint32_t readable = memory_.Readable(actor(), location, last, order);
    uint32_t age = 0;
    if (readable > 1 && stale_loads_ < bounds_.stale_loads) age = ChooseOne(readable);
    if (age > 0) ++stale_loads_;
    return memory_.Read(actor(), location, age, order);
  }
  void ReadLast(const void* location, uint64_t last, std::memory_order order) {
    memory_.Readable(actor(), location, last, order);
    memory_.Read(actor(), location, 0, order);
  }
  void Write(const void* location, uint64_t last, uint64_t value, bool reads,
             std::memory_order order) {
    memory_.Write(actor(), location, last, value, reads, order);
  }
  void KnowWhatTheKilledKnew() {
    if (memory_is_weak()) memory_.Join(actor(), 0);
  }

 private:
  // One of `count`; which, is gone through.
  struct Choice {
    uint32_t chosen;
    uint32_t count;
  };

  bool NextOrder() {
    while (!choices_.empty()) {
      Choice& last = choices_.back();
      if (++last.chosen < last.count) return true;
      choices_.pop_back();
    }
    return false;
  }

  bool CanGoOn(const Actor& one) const {
    return !one.ended && (one.waits_for == nullptr || one.waits_for());
  }

  size_t actor() const { return static_cast<size_t>(running_ - actors_.data()); }

  uint32_t ChooseOne(uint32_t count) {
    if (count < 2) return 0;
    if (depth_ == choices_.size()) choices_.push_back({0, count});
    MI7_CHECK(choices_[depth_].count == count, "the same choices lead to the same ones");
    return choices_[depth_++].chosen;
  }

  // Chooses who goes on, in `next_`. The first choice is whoever runs, if it can.
  Actor* Choose() {
    choosing_ = true;
    options_.clear();
    const bool able = running_ != nullptr && CanGoOn(*running_);
    if (able) options_.push_back(running_);
    if (!able || preemptions_ < bounds_.preemptions) {
      for (Actor& other : actors_) {
        if (&other != running_ && CanGoOn(other)) options_.push_back(&other);
      }
    }
    choosing_ = false;
    const bool may_die = bounds_.death && !killed_ && able && running_ == actors_.data();
    const auto count = static_cast<uint32_t>(options_.size() + (may_die ? 1 : 0));
    const uint32_t chosen = ChooseOne(count);
    if (count == 0) {
      next_ = nullptr;
    } else if (chosen == options_.size()) {
      killed_ = true;
      running_->ended = true;
      running_ = nullptr;  // so that who comes next has preempted nobody
      return Choose();
    } else {
      next_ = options_[chosen];
      if (able && next_ != running_) ++preemptions_;
      next_->waits_for = nullptr;
    }
    return next_;
  }

  // To the explorer's context. Comes back when it is this actor's turn, if ever.
  void Leave() { ::swapcontext(&fibre_->context, &context_); }

  static void Main() {
    Explorer* const self = active_;
    self->fibre_->work();
    self->fibre_->ended = true;
    self->running_ = nullptr;
    self->Choose();
    self->Leave();
  }

  void TakeOneOrder(Run run) {
    actors_.resize(run.actors.size());
    for (size_t i = 0; i < actors_.size(); ++i) {
      Actor& one = actors_[i];
      one.work = std::move(run.actors[i]);
      one.waits_for = nullptr;
      one.ended = false;
      ::getcontext(&one.context);
      one.context.uc_stack.ss_sp = one.stack.get();
      one.context.uc_stack.ss_size = kStackBytes;
      one.context.uc_link = nullptr;
      ::makecontext(&one.context, &Main, 0);
    }
    depth_ = 0;
    steps_ = 0;
    preemptions_ = 0;
    stale_loads_ = 0;
    one_step_ = false;
    memory_.Restart(actors_.size());
    killed_ = false;
    wrong_ = nullptr;
    running_ = nullptr;
    Choose();
    while (next_ != nullptr && wrong_ == nullptr) {
      fibre_ = running_ = next_;
      ::swapcontext(&context_, &fibre_->context);
    }
    running_ = nullptr;
    for (const Actor& one : actors_) {
      if (wrong_ == nullptr && !one.ended) wrong_ = "somebody waits, and nobody goes on";
    }
    explored_.wrong = wrong_ != nullptr ? wrong_ : run.check();
  }

  const Bounds bounds_;
  Explored explored_;
  std::vector<Choice> choices_;  // of this order; those that follow have not been made yet
  size_t depth_ = 0;             // of choices_, that have been made

  std::vector<Actor> actors_;
  std::vector<Actor*> options_;
  ucontext_t context_;
  Actor* fibre_ = nullptr;    // whose stack this is
  Actor* running_ = nullptr;  // the same, unless it has ended
  Actor* next_ = nullptr;
  bool choosing_ = false;
  bool one_step_ = false;
  WeakMemory memory_;
  int stale_loads_ = 0;
  uint64_t steps_ = 0;
  int preemptions_ = 0;
  bool killed_ = false;
  const char* wrong_ = nullptr;

  static inline Explorer* active_ = nullptr;
};

}  // namespace

Explored Explore(const std::function<Run()>& start, const Bounds& bounds) {
  return Explorer(bounds).All(start);
}

void Step() {
  if (Explorer::active() != nullptr) Explorer::active()->Step();
}

void WaitUntil(std::function<bool()> condition) { Explorer::active()->Wait(std::move(condition)); }

bool Killed() { return Explorer::active()->killed(); }

void KnowWhatTheKilledKnew() { Explorer::active()->KnowWhatTheKilledKnew(); }

void AsOneStep(const std::function<void()>& work) { Explorer::active()->AsOneStep(work); }

bool MemoryIsWeak() {
  return Explorer::active() != nullptr && Explorer::active()->memory_is_weak();
}

uint64_t WeakRead(const void* location, uint64_t last, std::memory_order order) {
  return Explorer::active()->Read(location, last, order);
}

void WeakReadOfLast(const void* location, uint64_t last, std::memory_order order) {
  Explorer::active()->ReadLast(location, last, order);
}

void WeakWrite(const void* location, uint64_t last, uint64_t value, bool reads,
               std::memory_order order) {
  Explorer::active()->Write(location, last, value, reads, order);
}

}  // namespace mi7::slot_pipe_internal
