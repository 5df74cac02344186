#pragma once

// A host of a test that is a process of its own: it takes single letters as commands, and answers
// each with a line.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <string>
#include <utility>

#include "base/check.h"

namespace mi7::conformance {

// Made before the process has threads. Not thread-safe.
class ChildHost {
 public:
  // `live` is the process's life, with the descriptors of its commands and of its answers.
  explicit ChildHost(const std::function<void(int commands, int answers)>& live) {
    std::array<int, 2> to, from;
    MI7_CHECK(::pipe2(to.data(), O_CLOEXEC) == 0 && ::pipe2(from.data(), O_CLOEXEC) == 0, "pipes");
    pid_ = ::fork();
    MI7_CHECK(pid_ >= 0, "fork");
    if (pid_ == 0) {
      ::close(to[1]);
      ::close(from[0]);
      live(to[0], from[1]);
      ::_exit(0);
    }
    ::close(to[0]);
    ::close(from[1]);
    commands_ = to[1];
    answers_ = from[0];
  }
  ~ChildHost() {
    Kill();
    if (commands_ >= 0) ::close(commands_);
    ::close(answers_);
  }
  ChildHost(const ChildHost&) = delete;
  ChildHost& operator=(const ChildHost&) = delete;

  pid_t pid() const { return pid_; }
  // The answer, or why there is none within 30 s.
  std::string Do(char command) {
    return ::write(commands_, &command, 1) == 1 ? NextLine() : "it is gone";
  }
  std::string NextLine() {
    std::string line;
    char letter;
    pollfd descriptor{answers_, POLLIN, 0};
    while (::poll(&descriptor, 1, 30'000) == 1 && ::read(answers_, &letter, 1) == 1) {
      if (letter == '\n') return line;
      line += letter;
    }
    return "no answer";
  }
  void Kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }
  // There are no further commands; the exit status, -1 when a signal has ended it.
  int End() {
    ::close(std::exchange(commands_, -1));
    int status = -1;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_;
  int commands_;
  int answers_;
};

}  // namespace mi7::conformance
