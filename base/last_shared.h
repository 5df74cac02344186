#pragma once

// LastShared: lets objects that are made one after another with the same settings share one copy of
// them. A process with ten thousand connections made most of them with the same ones.

#include <memory>

#include "absl/base/thread_annotations.h"
#include "base/fork_guard.h"
#include "base/mutex.h"

namespace mi7 {

// Remembers the value that was made last, as long as somebody else has it. Thread-safe; an object
// lives for ever.
template <typename T>
class LastShared {
 public:
  LastShared() { ForkGuard::HoldAcrossFork(&mutex_); }

  // The last value if it still exists and `same(value)`; otherwise what `make()` returns, a
  // shared_ptr<T>, is the last one from now on. Both run with no lock held. A value that was made
  // for another `owner` is not looked at, and so not kept alive meanwhile: what it refers to may
  // end.
  template <typename Same, typename Make>
  std::shared_ptr<T> Get(Same same, Make make, const void* owner = nullptr) {
    std::weak_ptr<T> remembered;
    {
      MutexLock lock(&mutex_);
      if (owner_ == owner) remembered = last_;
    }
    if (std::shared_ptr<T> last = remembered.lock(); last != nullptr && same(*last)) return last;
    std::shared_ptr<T> made = make();
    remembered = made;
    MutexLock lock(&mutex_);
    last_.swap(remembered);
    owner_ = owner;
    return made;
  }

 private:
  Mutex mutex_;
  std::weak_ptr<T> last_ ABSL_GUARDED_BY(mutex_);
  const void* owner_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of last_
};

}  // namespace mi7
