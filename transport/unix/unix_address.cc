#include "transport/unix/unix_address.h"

#include <sys/socket.h>

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace mi7::transport {

absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path) {
  if (path.empty() || path.front() != '/' || path.back() == '/' ||
      path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", absl::CHexEscape(path), "\" is not the absolute path of a socket file"));
  }
  if (path.size() > kSocketPathBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat("the path ", path, " has ", path.size(),
                                                   " bytes; that of a Unix socket has at most ",
                                                   kSocketPathBytesMax));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace mi7::transport
