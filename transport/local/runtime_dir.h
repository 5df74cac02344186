#pragma once

// The runtime directory: where the servers and clients of one user meet on a machine. It holds
// nothing but Unix sockets, and lets nobody else in:
//
//   <32 hex digits>.sock    the rendezvous of a mi7:// server, named by its instance id
//   shm-NAME.sock           the server of shm:NAME
//
// Which one: LocalOptions::runtime_dir, else $MI7_RUNTIME_DIR, else the first of
//   $XDG_RUNTIME_DIR/mi7    when $XDG_RUNTIME_DIR is a directory of ours
//   /run/user/UID/mi7       when /run/user/UID is
//   /tmp/mi7-UID
// A server uses the first; a client looks in each, since it may run in another environment than the
// server (a service of the system, sudo). It must be on a file system of this machine.
//
// Thread-safe: functions and constant values only.

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// An open directory. What is in it is reached by the descriptor, so that it stays the one that was
// checked, whatever happens to its path.
class Directory {
 public:
  // Any directory, to put sockets in. NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION (it is
  // something else), RESOURCE_EXHAUSTED.
  static absl::StatusOr<Directory> Open(const std::string& path);

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // For messages.
  std::string PathOf(absl::string_view name) const;

 private:
  friend absl::StatusOr<Directory> OpenRuntimeDir(const std::string& path);
  Directory(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

// What the choice depends on; a parameter for tests.
struct RuntimeDirEnvironment {
  std::string mi7_runtime_dir;
  std::string xdg_runtime_dir;
  std::string run_user = "/run/user";
  std::string tmp = "/tmp";
  uid_t uid = 0;
  // The process's.
  static RuntimeDirEnvironment Current();
};

// In order of preference, never empty. INVALID_ARGUMENT: the configured one, or MI7_RUNTIME_DIR, is
// no absolute path.
absl::StatusOr<std::vector<std::string>> RuntimeDirs(absl::string_view configured,
                                                     const RuntimeDirEnvironment& environment);

// Opens it and checks that it is a directory, no symbolic link, ours, and closed to all others.
// NOT_FOUND: there is none. FAILED_PRECONDITION, with what is wrong and the way out: it cannot be
// trusted. PERMISSION_DENIED, RESOURCE_EXHAUSTED: as the system says.
absl::StatusOr<Directory> OpenRuntimeDir(const std::string& path);

// The same, made with mode 0700 when it is missing. NOT_FOUND: its parent directory is.
absl::StatusOr<Directory> MakeRuntimeDir(const std::string& path);

// The file name of shm:NAME in it.
std::string ShmSocketName(absl::string_view name);

}  // namespace mi7::transport
