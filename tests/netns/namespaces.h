#pragma once

// Network namespaces for tests. They have no names: each ends with the last process in it, so
// nothing is left behind however a test ends.

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace mi7::conformance {

// Runs a command of iproute2; its exit status is 0.
inline bool Ip(const std::string& arguments) {
  return std::system(absl::StrCat("ip ", arguments).c_str()) == 0;  // NOLINT: a fixed command
}

// A network namespace of its own for this process, which has one thread. Empty when done, else why
// not.
inline std::string EnterNewNetwork() {
  if (::unshare(CLONE_NEWNET) == 0) return "";
  // Not root: in a user namespace, where this user is.
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) {
    return absl::StrCat("unshare: ", std::strerror(errno));
  }
  const auto write = [](const char* path, const std::string& text) {
    const int fd = ::open(path, O_WRONLY | O_CLOEXEC);
    const bool written =
        fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    if (fd >= 0) ::close(fd);
    return written;
  };
  write("/proc/self/setgroups", "deny");
  if (!write("/proc/self/uid_map", absl::StrCat("0 ", uid, " 1")) ||
      !write("/proc/self/gid_map", absl::StrCat("0 ", gid, " 1"))) {
    return "the user cannot be mapped into a user namespace";
  }
  return "";
}

// Lets this process, the test's, into a network of its own, once. Empty when it is there, else why
// not.
inline const std::string& EnterTestsNetwork() {
  static const std::string why_not = [] {
    if (!Ip("-Version >/dev/null 2>&1")) {
      return std::string("the command ip (package iproute2) is missing");
    }
    std::string why = EnterNewNetwork();
    if (why.empty() && !Ip("link set lo up")) why = "a new network cannot be configured";
    return why;
  }();
  return why_not;
}

// Says that `what` is not run, and why; returns the latter.
inline const std::string& NotRun(const char* what, const std::string& why) {
  std::fprintf(stderr, "NOTICE: %s not run, this machine does not permit it: %s\n", what,
               why.c_str());
  return why;
}

// The network namespace of another process for this one, which has one thread.
inline bool EnterNetworkOf(pid_t pid) {
  const int fd = ::open(absl::StrCat("/proc/", pid, "/ns/net").c_str(), O_RDONLY | O_CLOEXEC);
  const bool entered = fd >= 0 && ::setns(fd, CLONE_NEWNET) == 0;
  if (fd >= 0) ::close(fd);
  return entered;
}

}  // namespace mi7::conformance
