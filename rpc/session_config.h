#pragma once

// SessionConfig: what all sessions of a channel or a server share.

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
  Interceptors interceptors = {};                     // of the calls that are served
  std::shared_ptr<LoadControl> load = nullptr;        // nullptr: what is taken on is not limited
  std::shared_ptr<LivenessWatch> liveness = nullptr;  // nullptr: silence and idleness are nothing
  std::shared_ptr<Timers> timers = nullptr;           // for handlers; nullptr: serves nothing
  std::shared_ptr<SavedAnswers> saved_answers = nullptr;  // nullptr: recognizes no repeated calls
};

}  // namespace mi7
