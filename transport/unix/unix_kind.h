#pragma once

// Unix sockets, as their stream connections know them.

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "transport/stream/stream_context.h"
#include "transport/unix/unix_options.h"

namespace mi7::transport {

// Who is at the other end of a connected Unix socket; also when it has gone already. UNAVAILABLE
// when the system does not say.
absl::StatusOr<PeerCredentials> ReadPeerCredentials(int fd);

// "SCHEME:pid=4711,uid=1000": the end of a connection that has no socket file, in ConnectionInfo.
std::string ProcessText(absl::string_view scheme, pid_t pid, uid_t uid);

// Of connections over the socket file at `path`. Their texts: the end that listens is "unix:PATH",
// the other one a ProcessText.
std::shared_ptr<StreamContext> UnixContext(const TransportOptions& options,
                                           const std::string& path);

// The same for one that we make, shared with those made just before to the same path with equal
// options.
std::shared_ptr<StreamContext> ShareUnixContext(const TransportOptions& options,
                                                const std::string& path);

// StreamTerms::admit that asks UnixOptions::admit.
std::function<absl::Status(int fd)> AdmitPeers(
    std::function<absl::Status(const PeerCredentials&)> admit);

}  // namespace mi7::transport
