#pragma once

// Passing descriptors over Unix sockets (unix(7), SCM_RIGHTS).

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// At most one descriptor travels with what we send and expect.
// Sends `bytes` and with their first one `descriptor`, unless it is -1. Does not block. As send(2).
ssize_t SendWithDescriptor(int socket, std::span<const std::byte> bytes, int descriptor);

// The descriptors that came with a handshake's bytes: the first is kept, further ones are closed at
// once, and counted.
class ReceivedDescriptors {
 public:
  // As recv(2) with MSG_DONTWAIT; takes the descriptors that come with the bytes. Nothing that is
  // received survives an exec.
  ssize_t Receive(int socket, std::span<std::byte> space);

  // OK when exactly `expected` (0 or 1) came. INVALID_ARGUMENT: another number. RESOURCE_EXHAUSTED:
  // this process had no descriptor free to receive one.
  absl::Status Check(size_t expected) const;

  // The one that is kept.
  UniqueFd Take() { return std::move(first_); }

 private:
  // So many are received before they are closed; the system closes what exceeds it.
  static constexpr size_t kRoom = 4;

  UniqueFd first_;
  size_t count_ = 0;
  bool more_ = false;   // there were more than kRoom
  bool short_ = false;  // there were more than this process could take
};

}  // namespace mi7::transport
