#pragma once

// ServerShutdown: what Server::Shutdown does, in steps of which none waits. Who makes them waits in
// between, in his own way: a server's thread sleeps, a simulation does something else.
//
//   ServerShutdown shutdown(sessions, deadline);
//   while (const std::optional<Deadline> until = shutdown.Step()) sessions.WaitUntilEmpty(*until);
//   return shutdown.result();

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "base/deadline.h"
#include "rpc/server_sessions.h"

namespace mi7 {

// One thread at a time.
class ServerShutdown {
 public:
  // Nothing is added to `sessions` any more.
  ServerShutdown(ServerSessions& sessions, Deadline deadline)
      : sessions_(sessions), deadline_(deadline) {}

  // Does what there is to do now: first all connections are drained, then those closed that are
  // left at the deadline. The next step is due when no session is left, or at that time, and does
  // nothing before. nullopt: none is left, and this was the last step.
  std::optional<Deadline> Step();
  // After it: OK, or DEADLINE_EXCEEDED with the number of calls that were cut off, and of clients
  // that had answers to read still.
  const absl::Status& result() const { return result_; }

 private:
  enum class Stage : uint8_t { kServing, kDraining, kClosing };

  ServerSessions& sessions_;
  const Deadline deadline_;
  Stage stage_ = Stage::kServing;
  absl::Status result_;
};

}  // namespace mi7
