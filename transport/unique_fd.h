#pragma once

// UniqueFd: owns a file descriptor of this process.

#include <unistd.h>

#include <cstdint>
#include <utility>

#include "base/fork_guard.h"

namespace mi7::transport {

// Closes the descriptor when destroyed; move-only. Empty (-1) when default-constructed or moved
// from. Not thread-safe.
//
// A forked child has no share in it: its copy is closed by the fork (base/fork_guard.h), and the
// object it inherits does nothing. The number that get() says there may be another descriptor's.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {
    if (fd_ >= 0) ForkGuard::CloseInChild(fd_);
  }
  UniqueFd(UniqueFd&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), made_in_(other.made_in_) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(made_in_, other.made_in_);
    return *this;
  }
  ~UniqueFd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  // Whether this process is a forked child of the one whose descriptor it is.
  bool forked() const { return ForkGuard::generation() != made_in_; }
  // Gives up ownership.
  int release() {
    if (fd_ >= 0 && !forked()) ForkGuard::Forget(fd_);
    return std::exchange(fd_, -1);
  }
  // Keeps errno.
  void reset() {
    const int fd = std::exchange(fd_, -1);
    if (fd >= 0 && !forked()) ForkGuard::Close(fd);
  }

 private:
  int fd_ = -1;
  uint32_t made_in_ = ForkGuard::generation();
};

}  // namespace mi7::transport
