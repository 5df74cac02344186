#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "transport/connection.h"
#include "transport/event_loop.h"

namespace mi7::transport {

// What may stand between the connections of a channel or a server and their user, by
// ChannelOptions::decorator and ServerOptions::decorator: for tests that inject faults
// (fault/fault_script.h). Thread-safe.
class ConnectionDecorator {
 public:
  virtual ~ConnectionDecorator() = default;
  // What is used instead of `inner`, which was just made and has not been started. `loop` outlives
  // the end of both. An error counts as one of connecting; `inner` is closed then.
  virtual absl::StatusOr<std::shared_ptr<Connection>> Decorate(std::shared_ptr<Connection> inner,
                                                               EventLoop* loop) = 0;
};

}  // namespace mi7::transport
