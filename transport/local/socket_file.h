#pragma once

// Listening Unix sockets with names in the file system, and connecting to them.
//
// A socket file outlives a server that was killed. Three rules make that harmless:
// * A socket is bound under a temporary name, listens, and only then is renamed to its own. So what
//   refuses a connection at its own name is stale, and never a server that is just starting.
// * Whoever makes, replaces or removes a name holds the directory's lock (flock on its descriptor),
//   which ends with its process.
// * A server that listens removes what it finds stale.
//
// Files are reached through descriptors (/proc/self/fd), so that a name checked is the name used
// and paths may be longer than the 107 bytes of a socket's address. Where /proc is missing, paths
// are used.
//
// Thread-safe: functions; a SocketFile has one user at a time.

#include <sys/socket.h>
#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "transport/local/runtime_dir.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// A listening socket and its name. Removes the name when closed, unless another has taken it; not
// in a process that was forked from the one that made it.
class SocketFile {
 public:
  struct Options {
    int type = SOCK_STREAM;
    mode_t mode = 0600;
    int backlog = 4096;  // the system lowers it to net.core.somaxconn
    // Removes what is stale of other servers in the directory, too: a runtime directory.
    bool sweep = false;
    // Takes the name from a server of our user that listens there.
    bool take_over = false;
    // How long to wait for the directory's lock, which others hold for microseconds.
    absl::Duration lock_patience = absl::Seconds(5);
  };
  // Listens at `name` in `directory`, in place of a stale socket there; non-blocking.
  // ALREADY_EXISTS: a server listens there that is not to be taken over, or it is no socket.
  // PERMISSION_DENIED, NOT_FOUND, RESOURCE_EXHAUSTED: as the system says. UNAVAILABLE: another
  // process holds the directory's lock for all of lock_patience. Blocks for no longer than that.
  static absl::StatusOr<SocketFile> Listen(Directory directory, const std::string& name,
                                           const Options& options);

  SocketFile(SocketFile&& other) noexcept;
  SocketFile& operator=(SocketFile&& other) noexcept;
  ~SocketFile() { Close(); }

  int fd() const { return fd_.get(); }
  // For messages.
  std::string path() const { return directory_.PathOf(name_); }
  // Removes the name and stops listening. Idempotent.
  void Close();
  // The same in two steps, for who still uses the descriptor. Idempotent.
  void RemoveName();

 private:
  SocketFile(Directory directory, std::string name, UniqueFd fd, dev_t device, ino_t inode);

  Directory directory_;
  std::string name_;  // "" when removed
  UniqueFd fd_;
  dev_t device_;
  ino_t inode_;
  pid_t owner_;
};

// A connected socket, non-blocking, to what listens at `name` in `directory`, which is a socket of
// our own user. NOT_FOUND: there is none. FAILED_PRECONDITION: it is something else.
// UNAVAILABLE: it refuses, or has no room for another client. PERMISSION_DENIED.
absl::StatusOr<UniqueFd> ConnectIn(const Directory& directory, const std::string& name);

// Removes the stale sockets of a runtime directory, and the temporary names of servers that were
// killed while they started; how many. What else is in it stays. Nothing is done while another
// holds the lock, who sweeps itself. Connects to nobody: a datagram socket that is pointed at a
// stream socket is told whether there is one, and the listener notices nothing.
int SweepStaleSockets(const Directory& directory);

// Splits the path of a unix: or shm: endpoint. `path` is absolute and does not end in a slash.
struct SocketPath {
  std::string directory;
  std::string name;
};
SocketPath SplitSocketPath(absl::string_view path);

}  // namespace mi7::transport
