#include "examples/files/paths.h"

#include <limits.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace files {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
    case EXDEV:  // openat2: leads out of the root
    case ELOOP:  // openat2: a symbolic link where none may be
      return absl::StatusCode::kPermissionDenied;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case ENOTDIR:
    case EISDIR:
    case ENOTEMPTY:
    case EBUSY:
    case ENXIO:  // a socket, or a device without a driver
    case ETXTBSY:
      return absl::StatusCode::kFailedPrecondition;
    case ENAMETOOLONG:
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EMLINK:
      return absl::StatusCode::kResourceExhausted;
    case EAGAIN:
      return absl::StatusCode::kAborted;
    default:
      return absl::StatusCode::kInternal;
  }
}

std::string TextOf(int error) {
  switch (error) {
    case EXDEV:
      return "it leads out of the served directory";
    case ELOOP:
      return "it leads through a symbolic link that may not be followed";
    case EAGAIN:
      return "what it leads through is being renamed; try again";
    default:
      return std::strerror(error);
  }
}

}  // namespace

std::string Quoted(absl::string_view path) {
  constexpr size_t kEdge = 100;
  if (path.size() <= 2 * kEdge) return absl::StrCat("'", absl::Utf8SafeCHexEscape(path), "'");
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(path.substr(0, kEdge)), "...",
                      absl::Utf8SafeCHexEscape(path.substr(path.size() - kEdge)), "'");
}

absl::Status ErrnoStatus(int error, absl::string_view action, absl::string_view path) {
  return absl::Status(CodeOf(error),
                      absl::StrCat("cannot ", action, " ", Quoted(path), ": ", TextOf(error)));
}

absl::Status CheckPath(absl::string_view path) {
  const auto wrong = [path](auto... why) {
    return absl::InvalidArgumentError(absl::StrCat("path ", Quoted(path), " ", why...));
  };
  if (path.empty()) return wrong("is empty; the served directory itself is '.'");
  if (path.find('\0') != path.npos) return wrong("holds a NUL byte");
  if (path.size() >= PATH_MAX) {
    return wrong("has ", path.size(), " bytes; at most ", PATH_MAX - 1, " are possible");
  }
  if (path.front() == '/') return wrong("is absolute; paths are relative to the served directory");
  if (path == ".") return absl::OkStatus();
  for (absl::string_view component : absl::StrSplit(path, '/')) {
    if (component == "..") return wrong("holds '..'; paths never leave the served directory");
    if (component == ".") return wrong("holds '.'; leave it out");
    if (component.empty()) return wrong("holds '//' or ends in '/'; names are not empty");
    if (component.size() > NAME_MAX) {
      return wrong("holds a name of ", component.size(), " bytes; at most ", NAME_MAX,
                   " are possible");
    }
  }
  return absl::OkStatus();
}

}  // namespace files
