#include "transport/stream/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace mi7::transport {

absl::Status SocketError(absl::string_view what, int error) {
  const std::string text = absl::StrCat(what, ": ", ::strerror(error));
  switch (error) {
    case EADDRINUSE:
      return absl::AlreadyExistsError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(
          absl::StrCat(text, "; raise the limit of open files (ulimit -n)"));
    case ENOBUFS:
    case ENOMEM:
      return absl::ResourceExhaustedError(text);
    case EADDRNOTAVAIL:
    case ENODEV:
      return absl::NotFoundError(text);
    case EAFNOSUPPORT:
    case EINVAL:
    case EPROTONOSUPPORT:
      return absl::InvalidArgumentError(text);
    default:
      return absl::UnavailableError(text);
  }
}

void ConfigureConnected(int fd, bool bounded_reads) {
  const int flags = ::fcntl(fd, F_GETFL);
  if ((flags & O_NONBLOCK) != 0) ::fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
  if (bounded_reads) {
    const timeval bound{0, 50'000};
    MI7_CHECK(::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof(bound)) == 0,
              "a stream socket takes a read timeout");
  }
}

void DiscardUnread(int fd) {
  char scratch[16 << 10];
  for (int i = 0; i < 64 && ::recv(fd, scratch, sizeof(scratch), MSG_DONTWAIT) > 0; ++i) {
  }
}

}  // namespace mi7::transport
