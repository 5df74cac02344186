#pragma once

// SessionConfig: what all sessions of a channel or a server share.

#include <memory>

#include "base/limits.h"
#include "rpc/interceptor.h"

namespace mi7 {

class Dispatcher;

// Constant once a session has it.
struct SessionConfig {
  Limits limits;
  const Dispatcher* dispatcher = nullptr;  // nullptr: serves nothing
  std::shared_ptr<const void> dispatcher_owner;
  Interceptors interceptors;  // of the calls that are served
};

}  // namespace mi7
