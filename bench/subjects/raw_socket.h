#pragma once

// The bare socket under the raw subjects: system calls and a 4-byte length, nothing else.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

// A connected TCP socket with TCP_NODELAY, or a Unix socket. Not thread-safe.
//
// Blocking: Read and Write are plain recv and send that sleep in the system. Spinning: they call
// the system again and again (MSG_DONTWAIT) until it has something; the CPU never sleeps.
class RawSocket {
 public:
  RawSocket() = default;
  RawSocket(int fd, Waiting waiting) : fd_(fd), flags_(FlagsFor(waiting)) {}
  RawSocket(RawSocket&& other) noexcept;
  RawSocket& operator=(RawSocket&& other) noexcept;
  ~RawSocket();

  // `address` is a listener's.
  static absl::StatusOr<RawSocket> Connect(const std::string& address, Waiting waiting);

  // From now on Read waits in an epoll of this socket alone, as an event loop does, before it
  // receives.
  absl::Status WaitInEpoll();

  // What is there, at least one byte and at most `size`. UNAVAILABLE when the peer has closed.
  absl::StatusOr<size_t> Read(void* buffer, size_t size);
  // All of it.
  absl::Status Write(const void* data, size_t size);

 private:
  static int FlagsFor(Waiting waiting);

  int fd_ = -1;
  int flags_ = 0;
  int epoll_fd_ = -1;
};

// Listens on a free port of 127.0.0.1 ("tcp"), or on an abstract Unix socket ("unix"), as
// workload.transport says. Not thread-safe.
class RawListener {
 public:
  static absl::StatusOr<RawListener> Listen(const Workload& workload);
  RawListener(RawListener&& other) noexcept;
  RawListener& operator=(RawListener&&) = delete;
  ~RawListener();

  const std::string& address() const { return address_; }
  // Sleeps until a client comes, however its connection will wait.
  absl::StatusOr<RawSocket> Accept(Waiting waiting);

 private:
  RawListener(int fd, std::string address) : fd_(fd), address_(std::move(address)) {}

  int fd_ = -1;
  std::string address_;
};

}  // namespace mi7::bench
