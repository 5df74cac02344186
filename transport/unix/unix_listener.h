#pragma once

// Listening on a Unix socket.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/local/socket_file.h"
#include "transport/stream/stream_context.h"
#include "transport/transports.h"
#include "transport/unix/unix_options.h"

namespace mi7::transport {

// transports.h Listen for an endpoint with a path. The socket file appears there with
// `unix_options.mode` when the socket listens already, in place of one that a dead server left, and
// goes when the listener closes. ALREADY_EXISTS: a server listens there, or it is no socket; it is
// left alone. INVALID_ARGUMENT: the path is longer than a socket's may be. NOT_FOUND: no such
// directory.
absl::StatusOr<std::unique_ptr<Listener>> UnixListen(const Endpoint& endpoint,
                                                     const std::vector<EventLoop*>& loops,
                                                     const TransportOptions& options,
                                                     const UnixOptions& unix_options,
                                                     AcceptCallback on_accept);

// The socket that UnixListen listens on, for transports that begin with one. Errors as there, with
// the name of `endpoint`. `take_over`: as SocketFile::Options has it.
absl::StatusOr<SocketFile> MakeSocketFile(const Endpoint& endpoint, const std::string& path,
                                          const UnixOptions& unix_options, bool take_over);

// UnixListen on a socket that listens already, for transports that begin with one. `path` is that
// of `file`, for texts.
absl::StatusOr<std::unique_ptr<Listener>> UnixListenOn(SocketFile file, const std::string& path,
                                                       const Endpoint& endpoint, StreamTerms terms,
                                                       const std::vector<EventLoop*>& loops,
                                                       const TransportOptions& options,
                                                       AcceptCallback on_accept);

}  // namespace mi7::transport
