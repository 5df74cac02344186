#include "examples/files/root.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_split.h"
#include "examples/files/paths.h"

namespace files {
namespace {

// Attempts while others rename what the path leads through, upon which the kernel says EAGAIN.
constexpr int kAttemptsMax = 16;

// glibc has no wrapper for it.
int OpenAt2Call(int directory, const char* path, const open_how& how) {
  return static_cast<int>(::syscall(SYS_openat2, directory, path, &how, sizeof how));
}

bool KernelHasOpenAt2(int directory) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH;
  return Fd(OpenAt2Call(directory, ".", how)).valid();
}

bool IsSymlink(int directory, const std::string& name) {
  struct stat info;
  return ::fstatat(directory, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISLNK(info.st_mode);
}

}  // namespace

absl::StatusOr<Root> Root::Open(const std::string& directory, Lookup lookup) {
  Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "serve", directory);
  const bool has_openat2 = lookup != Lookup::kComponents && KernelHasOpenAt2(fd.get());
  if (lookup == Lookup::kKernel && !has_openat2) {
    return absl::UnimplementedError("this kernel has no openat2, or a sandbox forbids it");
  }
  return Root(std::move(fd), has_openat2);
}

int Root::OpenAt2(const std::string& path, int flags, bool follow_links) const {
  open_how how{};
  how.flags = static_cast<unsigned>(flags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | (follow_links ? 0 : RESOLVE_NO_SYMLINKS);
  int fd = -1;
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    fd = OpenAt2Call(fd_.get(), path.c_str(), how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) break;
  }
  return fd;
}

int Root::OpenComponents(const std::string& path, int flags) const {
  Fd at;  // the directory reached so far; the root when not valid
  const auto directory = [&] { return at.valid() ? at.get() : fd_.get(); };
  const std::vector<std::string> components = absl::StrSplit(path, '/');
  for (size_t i = 0; i + 1 < components.size(); ++i) {
    Fd next(::openat(directory(), components[i].c_str(),
                     O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid()) {
      if (errno == ENOTDIR && IsSymlink(directory(), components[i])) errno = ELOOP;
      return -1;
    }
    at = std::move(next);
  }
  const std::string& name = components.back();
  const int fd = ::openat(directory(), name.c_str(), flags | O_NOFOLLOW);
  if (fd < 0) {
    if (errno == ENOTDIR && IsSymlink(directory(), name)) errno = ELOOP;
    return -1;
  }
  // With O_PATH, O_NOFOLLOW opens the link itself.
  struct stat info;
  if ((flags & O_PATH) != 0 && ::fstat(fd, &info) == 0 && S_ISLNK(info.st_mode)) {
    ::close(fd);
    errno = ELOOP;
    return -1;
  }
  return fd;
}

absl::StatusOr<Fd> Root::OpenToRead(absl::string_view path, int flags) const {
  if (absl::Status checked = CheckPath(path); !checked.ok()) return checked;
  flags |= O_CLOEXEC;
  if ((flags & O_PATH) == 0) flags |= O_NONBLOCK | O_NOCTTY;
  const std::string text(path);
  Fd fd(has_openat2_ ? OpenAt2(text, flags, /*follow_links=*/true) : OpenComponents(text, flags));
  if (!fd.valid()) return ErrnoStatus(errno, "open", path);
  return fd;
}

absl::StatusOr<Root::Place> Root::Locate(absl::string_view path) const {
  if (absl::Status checked = CheckPath(path); !checked.ok()) return checked;
  if (path == ".") {
    return absl::FailedPreconditionError("'.' is the served directory itself and stays as it is");
  }
  const size_t slash = path.rfind('/');
  const std::string parent(slash == path.npos ? "." : path.substr(0, slash));
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  Fd fd(has_openat2_ ? OpenAt2(parent, kFlags, /*follow_links=*/false)
                     : OpenComponents(parent, kFlags));
  if (!fd.valid()) return ErrnoStatus(errno, "reach", path);
  return Place{std::move(fd), std::string(slash == path.npos ? path : path.substr(slash + 1)),
               std::string(path)};
}

}  // namespace files
