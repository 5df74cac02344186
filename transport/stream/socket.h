#pragma once

// Small helpers around stream sockets of every kind.

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// The status for a failed system call on a socket: UNAVAILABLE for what the network or the peer
// did, RESOURCE_EXHAUSTED, PERMISSION_DENIED, ALREADY_EXISTS, NOT_FOUND, INVALID_ARGUMENT for what
// the machine says. The text is `what`, a colon and the system's words.
absl::Status SocketError(absl::string_view what, int error);

// Ordinary settings of a connected socket: blocking (callers pass MSG_DONTWAIT where they do not
// want to wait), and for `bounded_reads` a bound on how long a blocking read sleeps.
void ConfigureConnected(int fd, bool bounded_reads);

// Reads and drops what has arrived and was not read, up to 1 MiB. Closing a socket with unread
// bytes resets the connection, which may destroy what the peer has not read yet, the reason for the
// end above all.
void DiscardUnread(int fd);

}  // namespace mi7::transport
