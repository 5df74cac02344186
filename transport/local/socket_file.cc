#include "transport/local/socket_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/deadline.h"

namespace mi7::transport {
namespace {

constexpr size_t kAddressMax = sizeof(sockaddr_un::sun_path) - 1;
constexpr absl::string_view kTemporaryStart = ".";
constexpr absl::string_view kTemporaryEnd = ".new";
// What a name in a directory given by its descriptor leaves of an address.
constexpr size_t kNameInAddressMax = kAddressMax - sizeof("/proc/self/fd/2147483647/") + 1;

absl::Status FileError(absl::string_view what, const std::string& path, int error) {
  const std::string text = absl::StrCat(what, " ", path, ": ", ::strerror(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(text);
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(
          absl::StrCat(text, "; raise the limit of open files (ulimit -n)"));
    case ENOBUFS:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(text);
    case EADDRINUSE:
      return absl::AlreadyExistsError(text);
    default:
      return absl::UnavailableError(text);
  }
}

// An address of at most kAddressMax bytes; false when `path` is longer.
bool MakeAddress(const std::string& path, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.size() > kAddressMax) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  return true;
}

bool HaveProc() {
  static const bool have = ::access("/proc/self/fd", X_OK) == 0;
  return have;
}

// Calls connect() for the socket file that `file` (O_PATH) is and that `path` names. 0 or errno.
int ConnectTo(int socket, const UniqueFd& file, const std::string& path) {
  sockaddr_un address;
  if (!MakeAddress(HaveProc() ? absl::StrCat("/proc/self/fd/", file.get()) : path, address)) {
    return ENAMETOOLONG;
  }
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  return ::connect(socket, generic, sizeof(address)) == 0 ? 0 : errno;
}

// Whether a socket is behind a socket file.
enum class Life {
  kAlive,
  kStale,
  kUnknown,  // we may not ask, or it is no socket
};

Life LifeOf(const Directory& directory, const std::string& name) {
  UniqueFd file(::openat(directory.fd(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  struct stat found;
  if (!file || ::fstat(file.get(), &found) != 0 || !S_ISSOCK(found.st_mode)) return Life::kUnknown;
  const UniqueFd probe(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return Life::kUnknown;
  switch (ConnectTo(probe.get(), file, directory.PathOf(name))) {
    case ECONNREFUSED:
      return Life::kStale;
    case 0:
    case EPROTOTYPE:  // what is alive is a stream socket
      return Life::kAlive;
    default:
      return Life::kUnknown;
  }
}

// The lock of a directory. An open file description of its own, so that it excludes other threads
// of this process, too.
class DirectoryLock {
 public:
  // UNAVAILABLE: somebody else has it all the time until `deadline`.
  static absl::StatusOr<DirectoryLock> Take(const Directory& directory, Deadline deadline) {
    UniqueFd fd(::openat(directory.fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd) return FileError("opening", directory.path(), errno);
    // Held for microseconds, unless its process was stopped in the middle.
    timespec pause{0, 100'000};
    while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK && errno != EINTR) {
        return FileError("locking", directory.path(), errno);
      }
      if (deadline.passed()) {
        return absl::UnavailableError(absl::StrCat("directory ", directory.path(),
                                                   " is locked by another process (flock), which "
                                                   "should take microseconds; is it stopped?"));
      }
      ::nanosleep(&pause, nullptr);
      pause.tv_nsec = std::min(pause.tv_nsec * 2, 10'000'000L);
    }
    return DirectoryLock(std::move(fd));
  }
  DirectoryLock(DirectoryLock&&) = default;
  // Explicitly: a child that was forked meanwhile has the description, too.
  ~DirectoryLock() {
    if (fd_) ::flock(fd_.get(), LOCK_UN);
  }

 private:
  explicit DirectoryLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

// Always the same for a name, so that whoever makes the name anew finds what a killed predecessor
// left, and short enough for an address.
std::string TemporaryName(const std::string& name) {
  std::string temporary = absl::StrCat(kTemporaryStart, name, kTemporaryEnd);
  if (temporary.size() <= kNameInAddressMax) return temporary;
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  }
  return absl::StrFormat("%s%016x%s", kTemporaryStart, hash, kTemporaryEnd);
}

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// A name of one of ours in a runtime directory.
bool IsOurs(absl::string_view name) {
  if (absl::StartsWith(name, kTemporaryStart) && absl::EndsWith(name, kTemporaryEnd)) return true;
  if (!absl::EndsWith(name, ".sock")) return false;
  name.remove_suffix(5);
  return absl::StartsWith(name, "shm-") || (name.size() == 32 && IsHex(name));
}

// Under the lock.
int Sweep(const Directory& directory) {
  const int fd = ::openat(directory.fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return 0;
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(fd), &::closedir);
  if (entries == nullptr) {
    ::close(fd);
    return 0;
  }
  int removed = 0;
  while (const dirent* const entry = ::readdir(entries.get())) {
    const std::string name = entry->d_name;
    if (!IsOurs(name) || LifeOf(directory, name) != Life::kStale) continue;
    if (::unlinkat(directory.fd(), name.c_str(), 0) == 0) ++removed;
  }
  return removed;
}

// OK when `name` can be made: there is nothing, a stale socket, or one to `take_over`.
absl::Status CheckFree(const Directory& directory, const std::string& name, bool take_over) {
  const std::string path = directory.PathOf(name);
  struct stat found;
  if (::fstatat(directory.fd(), name.c_str(), &found, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? absl::OkStatus() : FileError("socket", path, errno);
  }
  if (!S_ISSOCK(found.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat(
        path, " is there already and is no socket; remove it or listen at another path"));
  }
  switch (LifeOf(directory, name)) {
    case Life::kStale:
      return absl::OkStatus();
    case Life::kAlive:
      if (take_over && found.st_uid == ::geteuid()) return absl::OkStatus();
      return absl::AlreadyExistsError(absl::StrCat("a server listens at ", path, " already"));
    case Life::kUnknown:
      break;
  }
  return absl::PermissionDeniedError(absl::StrCat(
      "socket ", path, " belongs to uid ", found.st_uid,
      " and cannot be asked whether a server listens there; remove it or listen at another path"));
}

}  // namespace

absl::StatusOr<SocketFile> SocketFile::Listen(Directory directory, const std::string& name,
                                              const Options& options) {
  absl::StatusOr<DirectoryLock> lock =
      DirectoryLock::Take(directory, Deadline::After(options.lock_patience));
  if (!lock.ok()) return lock.status();
  if (options.sweep) Sweep(directory);
  if (absl::Status free = CheckFree(directory, name, options.take_over); !free.ok()) return free;

  const std::string path = directory.PathOf(name);
  const std::string temporary = TemporaryName(name);
  UniqueFd fd(::socket(AF_UNIX, options.type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return FileError("a socket for", path, errno);
  sockaddr_un address;
  if (!MakeAddress(HaveProc() ? absl::StrCat("/proc/self/fd/", directory.fd(), "/", temporary)
                              : directory.PathOf(temporary),
                   address)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listening at ", path, ": too long for a socket's address without /proc, at most ",
        kAddressMax - kTemporaryStart.size() - kTemporaryEnd.size(), " bytes"));
  }
  // Under the lock nobody is between binding and renaming: what is there was left by a process that
  // was killed.
  ::unlinkat(directory.fd(), temporary.c_str(), 0);
  const auto* const generic = reinterpret_cast<const sockaddr*>(&address);
  if (::bind(fd.get(), generic, sizeof(address)) != 0) {
    return FileError("listening at", path, errno);
  }
  struct stat made;
  // The sticky bit keeps what cleans /tmp and $XDG_RUNTIME_DIR of old files from ours, says the XDG
  // Base Directory Specification.
  if (::fchmodat(directory.fd(), temporary.c_str(), options.mode | S_ISVTX, 0) != 0 ||
      ::fstatat(directory.fd(), temporary.c_str(), &made, AT_SYMLINK_NOFOLLOW) != 0 ||
      ::listen(fd.get(), options.backlog) != 0 ||
      ::renameat(directory.fd(), temporary.c_str(), directory.fd(), name.c_str()) != 0) {
    const int error = errno;
    ::unlinkat(directory.fd(), temporary.c_str(), 0);
    return FileError("listening at", path, error);
  }
  return SocketFile(std::move(directory), name, std::move(fd), made.st_dev, made.st_ino);
}

SocketFile::SocketFile(Directory directory, std::string name, UniqueFd fd, dev_t device,
                       ino_t inode)
    : directory_(std::move(directory)),
      name_(std::move(name)),
      fd_(std::move(fd)),
      device_(device),
      inode_(inode),
      owner_(::getpid()) {}

SocketFile::SocketFile(SocketFile&& other) noexcept
    : directory_(std::move(other.directory_)),
      name_(std::exchange(other.name_, "")),
      fd_(std::move(other.fd_)),
      device_(other.device_),
      inode_(other.inode_),
      owner_(other.owner_) {}

SocketFile& SocketFile::operator=(SocketFile&& other) noexcept {
  std::swap(directory_, other.directory_);
  std::swap(name_, other.name_);
  std::swap(fd_, other.fd_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  std::swap(owner_, other.owner_);
  return *this;
}

void SocketFile::RemoveName() {
  const std::string name = std::exchange(name_, "");
  if (name.empty() || owner_ != ::getpid()) return;
  // Without the lock as well, if it must be: whoever else makes this name finds us alive.
  const auto lock = DirectoryLock::Take(directory_, Deadline::After(absl::Seconds(1)));
  struct stat found;
  if (::fstatat(directory_.fd(), name.c_str(), &found, AT_SYMLINK_NOFOLLOW) == 0 &&
      found.st_dev == device_ && found.st_ino == inode_) {
    ::unlinkat(directory_.fd(), name.c_str(), 0);
  }
}

void SocketFile::Close() {
  RemoveName();
  fd_.reset();
}

absl::StatusOr<UniqueFd> ConnectIn(const Directory& directory, const std::string& name) {
  const std::string path = directory.PathOf(name);
  const UniqueFd file(::openat(directory.fd(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!file) return FileError("socket", path, errno);
  struct stat found;
  if (::fstat(file.get(), &found) != 0) return FileError("socket", path, errno);
  if (!S_ISSOCK(found.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is no socket"));
  }
  if (found.st_uid != ::geteuid()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "socket ", path, " belongs to uid ", found.st_uid, ", not to us, uid ", ::geteuid()));
  }
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return FileError("a socket for", path, errno);
  const int error = ConnectTo(socket.get(), file, path);
  switch (error) {
    case 0:
      return socket;
    case ECONNREFUSED:
      return absl::UnavailableError(
          absl::StrCat("socket ", path, ": nobody listens there any more (connection refused)"));
    case EAGAIN:
      return absl::UnavailableError(
          absl::StrCat("socket ", path,
                       ": the server has no room for another client that waits to be accepted"));
    case EPROTOTYPE:
      return absl::FailedPreconditionError(
          absl::StrCat("socket ", path, " is of another type, made by no mi7 server"));
    default:
      return FileError("connecting to socket", path, error);
  }
}

int SweepStaleSockets(const Directory& directory) {
  const auto lock = DirectoryLock::Take(directory, Deadline::AtNanos(0));
  return lock.ok() ? Sweep(directory) : 0;
}

SocketPath SplitSocketPath(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return {std::string(slash == 0 ? "/" : path.substr(0, slash)),
          std::string(path.substr(slash + 1))};
}

}  // namespace mi7::transport
