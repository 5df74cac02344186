#pragma once

// What Unix sockets can be told: who may connect, and who was.

#include <sys/types.h>

#include <functional>
#include <vector>

#include "absl/status/status.h"

namespace mi7::transport {

// The process at the other end of a Unix socket, as the system saw it when it connected
// (SO_PEERCRED), or when it began to listen. A value type.
struct PeerCredentials {
  pid_t pid = 0;  // 0: in a pid namespace that we do not see
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
  std::vector<gid_t> groups;  // supplementary ones (SO_PEERGROUPS)

  friend bool operator==(const PeerCredentials&, const PeerCredentials&) = default;
};

// A value type.
struct UnixOptions {
  // Permissions of the socket file; to connect takes the permission to write.
  mode_t mode = 0600;
  // Asked about every peer before a byte of it is read: an error refuses it, and says why, to it
  // too. Runs on a loop and must not block. Empty: whoever may open the socket file may talk.
  std::function<absl::Status(const PeerCredentials& peer)> admit;
};

}  // namespace mi7::transport
