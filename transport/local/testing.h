#pragma once

// For tests: a directory that goes away, what killed servers leave, and children.

#include <dirent.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/check.h"

namespace mi7::transport::testing {

// A new directory with mode 0700, removed with what is in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = "/tmp/mi7-test-XXXXXX";  // short: paths of sockets are
    MI7_CHECK(::mkdtemp(pattern.data()) != nullptr, "a temporary directory can be made");
    path_ = pattern;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  // The names in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::string path_;
};

// What a server that was killed leaves: a socket file without a socket. `path`: at most 107 bytes.
inline void LeaveStale(const std::string& path) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  MI7_CHECK(path.size() < sizeof(address.sun_path), "the path is short");
  path.copy(address.sun_path, path.size());
  MI7_CHECK(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
                ::listen(fd, 1) == 0 && ::close(fd) == 0,
            "a socket file can be made");
}

// Runs `body` in a forked process; its value is the exit status.
inline pid_t Fork(const std::function<int()>& body) {
  const pid_t child = ::fork();
  MI7_CHECK(child >= 0, "fork");
  if (child == 0) ::_exit(body());
  return child;
}

// The exit status of a child, or 128 and the signal that ended it.
inline int WaitFor(pid_t child) {
  int status = -1;
  MI7_CHECK(::waitpid(child, &status, 0) == child, "the child is ours");
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Whether this process may become other users: it is root, and not in a user namespace that has no
// others (a build's sandbox). Says so on stderr when it may not.
inline bool MayBecomeOthers() {
  if (WaitFor(Fork([] { return ::setresuid(12345, 12345, 12345) == 0 ? 0 : 1; })) == 0) return true;
  std::fprintf(stderr, "NOTICE: test not run, it takes root to become other users\n");
  return false;
}

}  // namespace mi7::transport::testing
