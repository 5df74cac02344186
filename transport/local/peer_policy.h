#pragma once

// Who is at the other end of a Unix socket, and whether a PeerPolicy (transport/local_options.h)
// allows it. Thread-safe: functions only.

#include <string>

#include "absl/status/status.h"
#include "transport/local_options.h"
#include "transport/unix/unix_options.h"

namespace mi7::transport {

// "pid 4711, uid 1000, gid 1000", for messages.
std::string DescribePeer(const PeerCredentials& peer);

// OK, or PERMISSION_DENIED with who the peer is and whom the policy admits.
absl::Status CheckPeer(const PeerPolicy& policy, const PeerCredentials& peer);

// Whether the payloads of an allowed peer may be read in place in shared memory.
bool IsTrusted(const PeerPolicy& policy, const PeerCredentials& peer);

}  // namespace mi7::transport
