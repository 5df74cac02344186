#include "transport/unix/unix_listener.h"

#include <errno.h>
#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/local/runtime_dir.h"
#include "transport/stream/socket.h"
#include "transport/stream/stream_listener.h"
#include "transport/unique_fd.h"
#include "transport/unix/unix_address.h"
#include "transport/unix/unix_kind.h"

namespace mi7::transport {
namespace {

absl::StatusOr<SocketFile> ListenAtPath(const std::string& path, mode_t mode, bool take_over) {
  // A client that has only the path must be able to connect.
  if (absl::StatusOr<sockaddr_un> address = UnixAddress(path); !address.ok()) {
    return address.status();
  }
  const SocketPath parts = SplitSocketPath(path);
  absl::StatusOr<Directory> directory = Directory::Open(parts.directory);
  if (!directory.ok()) return directory.status();
  SocketFile::Options file_options;
  file_options.mode = mode;
  file_options.take_over = take_over;
  file_options.backlog = kBacklog;
  return SocketFile::Listen(*std::move(directory), parts.name, file_options);
}

absl::Status Named(const Endpoint& endpoint, const absl::Status& why) {
  return absl::Status(why.code(),
                      absl::StrCat("listening on ", endpoint.ToString(), ": ", why.message()));
}

}  // namespace

absl::StatusOr<SocketFile> MakeSocketFile(const Endpoint& endpoint, const std::string& path,
                                          const UnixOptions& unix_options, bool take_over) {
  absl::StatusOr<SocketFile> file = ListenAtPath(path, unix_options.mode, take_over);
  if (!file.ok()) return Named(endpoint, file.status());
  return file;
}

absl::StatusOr<std::unique_ptr<Listener>> UnixListenOn(SocketFile file, const std::string& path,
                                                       const Endpoint& endpoint, StreamTerms terms,
                                                       const std::vector<EventLoop*>& loops,
                                                       const TransportOptions& options,
                                                       AcceptCallback on_accept) {
  // The file's own descriptor ends after its name has gone, the listener's with the listener.
  UniqueFd socket(::fcntl(file.fd(), F_DUPFD_CLOEXEC, 0));
  if (!socket) return Named(endpoint, SocketError("another descriptor of the socket", errno));
  std::vector<UniqueFd> sockets;
  sockets.push_back(std::move(socket));
  return ListenOn({.sockets = std::move(sockets),
                   .endpoint = endpoint,
                   .context = UnixContext(options, path),
                   .terms = std::move(terms),
                   .before_close = [file = std::move(file)]() mutable { file.Close(); }},
                  loops, options, std::move(on_accept));
}

absl::StatusOr<std::unique_ptr<Listener>> UnixListen(const Endpoint& endpoint,
                                                     const std::vector<EventLoop*>& loops,
                                                     const TransportOptions& options,
                                                     const UnixOptions& unix_options,
                                                     AcceptCallback on_accept) {
  absl::StatusOr<SocketFile> file =
      MakeSocketFile(endpoint, endpoint.path, unix_options, options.take_over);
  if (!file.ok()) return file.status();
  StreamTerms terms;
  terms.instance_id = options.instance_id;
  terms.admit = AdmitPeers(unix_options.admit);
  return UnixListenOn(*std::move(file), endpoint.path, endpoint, std::move(terms), loops, options,
                      std::move(on_accept));
}

}  // namespace mi7::transport
