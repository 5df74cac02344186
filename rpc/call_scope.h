#pragma once

// CallScope: what a handler does for its caller, and what is therefore in vain once the caller has
// given up: calls to others, waits, whatever has registered to be told.

#include <memory>
#include <stop_token>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "rpc/timers.h"

namespace mi7 {

class ClientCall;

// One for a call whose handler asks for it (ServerContext). Thread-safe. No function may be called
// under a lock that a continuation or callback takes.
class CallScope : public std::enable_shared_from_this<CallScope> {
 public:
  // Cancelled by itself when `deadline` passes. `timers`: nullptr for none.
  static std::shared_ptr<CallScope> Create(std::shared_ptr<Timers> timers, Deadline deadline);

  // Stopped when the caller has given up.
  std::stop_token token() const { return stop_.get_token(); }
  bool cancelled() const { return stop_.stop_requested(); }
  Deadline deadline() const { return deadline_; }
  const std::shared_ptr<Timers>& timers() const { return timers_; }

  // Makes `call` end with the scope (ClientCall::Cancel). Takes a reference until Remove or the
  // end. False: the scope has ended, and the caller is to end the call.
  bool Add(ClientCall* call);
  // No effect when `call` is not in the scope.
  void Remove(ClientCall* call);

  // The caller has given up: stops the token, then cancels the calls, all on this thread.
  void Cancel();
  // The call is answered: cancels the calls that are left. Nobody waits for them.
  void End();

 private:
  CallScope(std::shared_ptr<Timers> timers, Deadline deadline)
      : timers_(std::move(timers)), deadline_(deadline) {}

  const std::shared_ptr<Timers> timers_;
  const Deadline deadline_;
  std::stop_source stop_;
  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  Timers::Handle timer_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<ClientCall*> calls_ ABSL_GUARDED_BY(mutex_);  // a reference each
};

}  // namespace mi7
