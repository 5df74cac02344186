#include "transport/stream/descriptors.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace mi7::transport {

ssize_t SendWithDescriptor(int socket, std::span<const std::byte> bytes, int descriptor) {
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &descriptor, sizeof(int));
  }
  return ::sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

ssize_t ReceivedDescriptors::Receive(int socket, std::span<std::byte> space) {
  iovec piece{space.data(), space.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kRoom * sizeof(int))];
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t got = ::recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (got < 0) return got;
  size_t arrived = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      UniqueFd descriptor(fd);
      if (count_++ == 0) first_ = std::move(descriptor);
      ++arrived;
    }
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) (arrived == kRoom ? more_ : short_) = true;
  return got;
}

absl::Status ReceivedDescriptors::Check(size_t expected) const {
  if (short_) {
    return absl::ResourceExhaustedError(
        "a descriptor that the peer passed could not be received: this process has none free; "
        "raise "
        "the limit of open files (ulimit -n)");
  }
  if (count_ == expected && !more_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("peer's hello came with ", more_ ? "more than " : "", count_,
                   count_ == 1 ? " descriptor" : " descriptors", ", must be ", expected));
}

}  // namespace mi7::transport
