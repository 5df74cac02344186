#pragma once

// What can be chosen about peers on the same machine: whom to talk to, and where to meet. Value
// types.

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "transport/shm/shm_options.h"

namespace mi7::transport {

// Whom we talk to over Unix sockets and shared memory, as listener and as connector. Decided by
// what the system says of the peer (SO_PEERCRED, SO_PEERGROUPS) when the connection is made, not by
// what the peer says. A peer is allowed when any of these holds; one that is not is refused with
// PERMISSION_DENIED before a byte of it is read.
struct PeerPolicy {
  // It runs as our effective user. Never so in a user namespace that does not have all users for
  // who runs there as the uid that stands for the others (65534, /proc/sys/kernel/overflowuid).
  bool same_user = true;
  // It runs as one of these users.
  std::vector<uid_t> users;
  // One of these is its effective or a supplementary group.
  std::vector<gid_t> groups;
  // Whoever may open the socket.
  bool anyone = false;

  // Users, besides our own, whose messages are read where they are in shared memory, although they
  // could still change them; those of others are copied before they are parsed. Allows nobody.
  std::vector<uid_t> trusted_users;

  friend bool operator==(const PeerPolicy&, const PeerPolicy&) = default;

  static PeerPolicy Anyone() {
    PeerPolicy policy;
    policy.anyone = true;
    return policy;
  }
  // Refuses every peer: no Unix sockets, no shared memory.
  static PeerPolicy Nobody() {
    PeerPolicy policy;
    policy.same_user = false;
    return policy;
  }
};

// How to meet them.
struct LocalOptions {
  PeerPolicy peers;

  // The directory in which servers and clients of this user meet (transport/local/runtime_dir.h).
  // Empty: the environment's MI7_RUNTIME_DIR, else the user's own.
  std::string runtime_dir;

  // Permissions of the sockets of unix: and shm: endpoints; to connect takes the permission to
  // write. 0600 admits our own user only. Others need a policy that allows them, too.
  mode_t socket_mode = 0600;

  // Whether mi7:// endpoints offer and use shared memory. Without it they are TCP.
  bool shared_memory = true;

  // The memory of a connection over shared memory.
  ShmOptions shm;

  friend bool operator==(const LocalOptions&, const LocalOptions&) = default;
};

// OK when `options` can be used; else INVALID_ARGUMENT naming the field and the value.
// Channel::Create and ServerBuilder::Start check theirs.
absl::Status CheckLocalOptions(const LocalOptions& options);

// The default ones. Never null; thread-safe.
inline const std::shared_ptr<const LocalOptions>& DefaultLocalOptions() {
  static const auto& options = *new auto(std::make_shared<const LocalOptions>());
  return options;
}

// `options` to be kept, by all who chose the default ones together. Never null.
inline std::shared_ptr<const LocalOptions> ShareLocalOptions(const LocalOptions& options) {
  if (options == *DefaultLocalOptions()) return DefaultLocalOptions();
  return std::make_shared<const LocalOptions>(options);
}

}  // namespace mi7::transport
