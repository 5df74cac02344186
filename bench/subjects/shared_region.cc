#include "bench/subjects/shared_region.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace mi7::bench {
namespace {

absl::Status SystemError(const char* call) {
  return absl::UnavailableError(absl::StrCat(call, ": ", std::strerror(errno)));
}

// Closes itself.
struct Descriptor {
  explicit Descriptor(int number) : fd(number) {}
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int fd;
};

constexpr size_t kPassed = 3;  // the memory and two eventfds

struct PassingMessage {
  PassingMessage() {
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
  }
  char byte = 0;
  iovec piece = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(kPassed * sizeof(int))] = {};
  msghdr message = {};
};

}  // namespace

SharedRegion::SharedRegion(SharedRegion&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {
  for (int end : {0, 1}) events_[end] = std::exchange(other.events_[end], -1);
}

SharedRegion::~SharedRegion() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
  for (int fd : events_) {
    if (fd >= 0) ::close(fd);
  }
}

absl::Status SharedRegion::Map(int memory, size_t bytes) {
  // Touched now: no run pays for the first use of a page.
  void* const data =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, memory, 0);
  if (data == MAP_FAILED) return SystemError("mmap");
  data_ = data;
  bytes_ = bytes;
  return absl::OkStatus();
}

absl::StatusOr<SharedRegion> SharedRegion::Serve(
    size_t bytes, const std::function<void(const std::string&)>& ready) {
  SharedRegion region;
  const Descriptor memory(::memfd_create("bench", MFD_CLOEXEC));
  if (memory.fd < 0) return SystemError("memfd_create");
  if (::ftruncate(memory.fd, static_cast<off_t>(bytes)) != 0) return SystemError("ftruncate");
  if (absl::Status mapped = region.Map(memory.fd, bytes); !mapped.ok()) return mapped;
  for (int& event : region.events_) {
    event = ::eventfd(0, EFD_CLOEXEC);
    if (event < 0) return SystemError("eventfd");
  }
  const Descriptor listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  socklen_t length = sizeof(sa_family_t);  // the system picks an abstract name
  if (listener.fd < 0 ||
      ::bind(listener.fd, reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      ::listen(listener.fd, 1) != 0) {
    return SystemError("listen");
  }
  length = sizeof(address);
  if (::getsockname(listener.fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return SystemError("getsockname");
  }
  ready(absl::BytesToHexString(
      absl::string_view(address.sun_path, length - offsetof(sockaddr_un, sun_path))));
  const Descriptor peer(::accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC));
  if (peer.fd < 0) return SystemError("accept");
  PassingMessage passing;
  cmsghdr* const header = CMSG_FIRSTHDR(&passing.message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(kPassed * sizeof(int));
  const int passed[kPassed] = {memory.fd, region.events_[0], region.events_[1]};
  std::memcpy(CMSG_DATA(header), passed, sizeof(passed));
  if (::sendmsg(peer.fd, &passing.message, MSG_NOSIGNAL) != 1) return SystemError("sendmsg");
  return region;
}

absl::StatusOr<SharedRegion> SharedRegion::Connect(const std::string& address, size_t bytes) {
  const std::string name = absl::HexStringToBytes(address);
  sockaddr_un peer_address = {};
  peer_address.sun_family = AF_UNIX;
  if (name.size() > sizeof(peer_address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("'", address, "' is no server's address"));
  }
  std::memcpy(peer_address.sun_path, name.data(), name.size());
  const Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (socket.fd < 0 ||
      ::connect(socket.fd, reinterpret_cast<const sockaddr*>(&peer_address), length) != 0) {
    return SystemError("connect");
  }
  PassingMessage passing;
  if (::recvmsg(socket.fd, &passing.message, MSG_CMSG_CLOEXEC) != 1) return SystemError("recvmsg");
  const cmsghdr* const header = CMSG_FIRSTHDR(&passing.message);
  if (header == nullptr || header->cmsg_len != CMSG_LEN(kPassed * sizeof(int))) {
    return absl::DataLossError("the server passed no memory");
  }
  int passed[kPassed];
  std::memcpy(passed, CMSG_DATA(header), sizeof(passed));
  const Descriptor memory(passed[0]);
  SharedRegion region;
  region.events_[0] = passed[1];
  region.events_[1] = passed[2];
  if (absl::Status mapped = region.Map(memory.fd, bytes); !mapped.ok()) return mapped;
  return region;
}

absl::Status SharedRegion::Signal(int end) const {
  const uint64_t one = 1;
  return ::write(events_[end], &one, sizeof(one)) == sizeof(one) ? absl::OkStatus()
                                                                 : SystemError("write of eventfd");
}

absl::Status SharedRegion::Sleep(int end) const {
  uint64_t count;
  return ::read(events_[end], &count, sizeof(count)) == sizeof(count)
             ? absl::OkStatus()
             : SystemError("read of eventfd");
}

}  // namespace mi7::bench
