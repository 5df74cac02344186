#pragma once

// SessionConfig: what all sessions of a channel or a server share.

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/limits.h"
#include "rpc/interceptor.h"

namespace mi7 {

class Dispatcher;
class LivenessWatch;
class LoadControl;
class SavedAnswers;
class Timers;

// Constant once a session has it.
struct SessionConfig {
  Limits limits;
  const Dispatcher* dispatcher = nullptr;  // nullptr: serves nothing
  std::shared_ptr<const void> dispatcher_owner = nullptr;
  // When the server waits for its handlers no longer, as MonotonicNanos() counts; INT64_MAX: nobody
  // has asked it to shut down. nullptr: it has no such time. dispatcher_owner keeps it.
  const std::atomic<int64_t>* ends_at_ns = nullptr;
  Interceptors interceptors = {};                     // of the calls that are served
  std::shared_ptr<LoadControl> load = nullptr;        // nullptr: what is taken on is not limited
  std::shared_ptr<LivenessWatch> liveness = nullptr;  // nullptr: silence and idleness are nothing
  std::shared_ptr<Timers> timers = nullptr;           // for handlers; nullptr: serves nothing
  std::shared_ptr<SavedAnswers> saved_answers = nullptr;  // nullptr: recognizes no repeated calls
};

}  // namespace mi7
