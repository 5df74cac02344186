#include "transport/slot_pipe/pipe_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "transport/slot_pipe/free_hints.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr size_t kNameMax = 64;

// Closes what it holds.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int Take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// A directory or a file that is not what a pipe's should be.
absl::Status Unsafe(absl::string_view text) {
  return WithError(SlotPipeError::kUnsafeFile, absl::FailedPreconditionError(text));
}

absl::Status NoSuchPipe(absl::string_view name, absl::string_view directory) {
  return AboutPipe(
      name, SlotPipeError::kNoSuchPipe,
      absl::NotFoundError(absl::StrCat("there is none in ", directory, "; create it first")));
}

// A status for a failed system call on `path`.
absl::Status Failed(absl::string_view what, absl::string_view path, int error) {
  const std::string text = absl::StrCat(what, " ", path, ": ", ::strerror(error));
  switch (error) {
    case ENOENT:  // of a pipe: see NoSuchPipe
      return WithError(SlotPipeError::kSystem, absl::NotFoundError(text));
    case EEXIST:
      return WithError(SlotPipeError::kExists, absl::AlreadyExistsError(text));
    case EACCES:
    case EPERM:
    case EROFS:
      return WithError(SlotPipeError::kPermissionDenied, absl::PermissionDeniedError(text));
    case ENOSPC:
    case EDQUOT:
      return WithError(SlotPipeError::kTmpfsFull, absl::ResourceExhaustedError(text));
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return WithError(SlotPipeError::kSystemLimit, absl::ResourceExhaustedError(text));
    case ELOOP:
    case ENOTDIR:
    case EISDIR:
    case ENXIO:  // neither a file nor a directory where one should be
      return Unsafe(text);
    default:
      return WithError(SlotPipeError::kSystem, absl::FailedPreconditionError(text));
  }
}

struct Directory {
  std::string path;
  bool chosen_by_user = false;  // MI7_RUNTIME_DIR
};

Directory PipesDirectory() {
  const auto environment = [](const char* name) -> absl::string_view {
    const char* value = ::getenv(name);
    return value == nullptr ? "" : value;
  };
  if (const auto own = environment("MI7_RUNTIME_DIR"); !own.empty()) {
    return {absl::StrCat(own, "/pipes"), true};
  }
  if (const auto xdg = environment("XDG_RUNTIME_DIR"); !xdg.empty()) {
    return {absl::StrCat(xdg, "/mi7/pipes"), false};
  }
  return {absl::StrCat("/dev/shm/mi7-", ::geteuid(), "/pipes"), false};
}

// Whoever can write into the directory can put another file under a pipe's name.
absl::Status CheckDirectory(int fd, const Directory& directory) {
  struct stat about;
  if (::fstat(fd, &about) != 0) return Failed("looking at", directory.path, errno);
  if (!directory.chosen_by_user && about.st_uid != ::geteuid()) {
    return Unsafe(absl::StrCat(directory.path, " belongs to user ", about.st_uid, " instead of ",
                               ::geteuid(), "; remove it or set MI7_RUNTIME_DIR"));
  }
  const mode_t open_to = about.st_mode & (directory.chosen_by_user ? 0007 : 0077);
  if (open_to != 0) {
    return Unsafe(absl::StrFormat("%s can be entered by others (mode %04o); chmod it to 0700",
                                  directory.path, about.st_mode & 07777));
  }
  return absl::OkStatus();
}

// Whoever has made what the directory is in, as anybody can in /dev/shm, can put another directory
// in its place.
absl::Status CheckParent(const std::string& parent, const Directory& directory) {
  if (directory.chosen_by_user) return absl::OkStatus();
  struct stat about;
  if (::lstat(parent.c_str(), &about) != 0) return Failed("looking at", parent, errno);
  if (about.st_uid != ::geteuid() || !S_ISDIR(about.st_mode)) {
    return Unsafe(absl::StrCat(parent, " is no directory of user ", ::geteuid(),
                               "; remove it or set MI7_RUNTIME_DIR"));
  }
  if ((about.st_mode & 0022) != 0) {
    return Unsafe(absl::StrFormat("%s can be written by others (mode %04o); chmod it to 0700",
                                  parent, about.st_mode & 07777));
  }
  return absl::OkStatus();
}

// A limit of the process on the size of files, where there is one: who passes it gets a signal that
// ends the process (SIGXFSZ).
absl::Status CheckFileSize(uint64_t bytes) {
  rlimit limit;
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || bytes <= limit.rlim_cur) return absl::OkStatus();
  return WithError(SlotPipeError::kSystemLimit,
                   absl::ResourceExhaustedError(absl::StrCat(
                       "reserving ", bytes, " bytes: that exceeds this process's RLIMIT_FSIZE, ",
                       limit.rlim_cur, " bytes (ulimit -f)")));
}

// Opens the directory, and makes it and what is above it first if asked to.
absl::StatusOr<Fd> OpenDirectory(const Directory& directory, bool create, bool for_group) {
  if (create) {
    // Its two last parts are ours; what is above them is there.
    const std::string parent = directory.path.substr(0, directory.path.rfind('/'));
    if (!directory.chosen_by_user && ::mkdir(parent.c_str(), 0700) != 0 && errno != EEXIST) {
      return Failed("making", parent, errno);
    }
    if (absl::Status status = CheckParent(parent, directory); !status.ok()) return status;
    if (::mkdir(directory.path.c_str(), for_group ? 0770 : 0700) != 0 && errno != EEXIST) {
      return Failed("making", directory.path, errno);
    }
  }
  Fd fd(::open(directory.path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (fd.get() < 0) return Failed("opening", directory.path, errno);
  if (absl::Status status =
          CheckParent(directory.path.substr(0, directory.path.rfind('/')), directory);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckDirectory(fd.get(), directory); !status.ok()) return status;
  return fd;
}

// A mapping keeps the open file description that it is made through, and a forked child keeps the
// mapping. So what can be written, of which the locks say who is alive, is mapped through a
// description of its own: else a parent that dies would live on in its child.
absl::StatusOr<void*> Map(int fd, uint64_t bytes, int protection) {
  std::unique_ptr<ForkGuard> own;
  if ((protection & PROT_WRITE) != 0) {
    const std::string self = absl::StrCat("/proc/self/fd/", fd);
    own = ForkGuard::Open([&] { return ::open(self.c_str(), O_RDWR | O_CLOEXEC); });
    if (own == nullptr && errno == ENOENT) {
      return WithError(SlotPipeError::kSystem,
                       absl::FailedPreconditionError(
                           absl::StrCat(self, " is not there: pipes need /proc to be mounted")));
    }
    if (own == nullptr) return Failed("opening again through", self, errno);
    fd = own->fd();
  }
  // Populated, so that no page is faulted in on the way of a message.
  void* memory = ::mmap(nullptr, bytes, protection, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (memory == MAP_FAILED) {
    return WithError(SlotPipeError::kSystemLimit,
                     absl::ResourceExhaustedError(
                         absl::StrCat("mapping ", bytes, " bytes: ", ::strerror(errno))));
  }
  return memory;
}

// Opens a pipe's file; null with errno. Without waiting, should it be no file but one that waits
// for somebody to open its other end.
std::unique_ptr<ForkGuard> OpenPipe(int directory, absl::string_view name, int mode) {
  const std::string text(name);
  return ForkGuard::Open([&] {
    return ::openat(directory, text.c_str(), mode | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  });
}

// Returns errno. Kernels before 6.9 reserve nothing where a signal comes meanwhile, so that a timer
// with a period shorter than it takes would keep us here for ever: pieces take less.
int Reserve(int fd, uint64_t bytes) {
  uint64_t piece = bytes;
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t now = std::min(piece, bytes - done);
    const int error = ::posix_fallocate(fd, static_cast<off_t>(done), static_cast<off_t>(now));
    if (error == 0) {
      done += now;
    } else if (error == EINTR) {
      piece = std::max<uint64_t>(piece / 2, 4096);
    } else {
      return error;
    }
  }
  return 0;
}

// Gives the file its name. Not by renaming, which would replace an existing pipe.
absl::Status GiveName(int directory, const Directory& where, int fd, const std::string& name) {
  const std::string self = absl::StrCat("/proc/self/fd/", fd);
  if (::linkat(AT_FDCWD, self.c_str(), directory, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
    return absl::OkStatus();
  }
  return Failed("naming", absl::StrCat(where.path, "/", name), errno);
}

}  // namespace

absl::Status CheckPipeName(absl::string_view name) {
  const auto allowed = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  };
  if (!name.empty() && name.size() <= kNameMax &&
      absl::ascii_isalnum(static_cast<unsigned char>(name[0])) &&
      std::all_of(name.begin(), name.end(), allowed)) {
    return absl::OkStatus();
  }
  return AboutPipe(name.substr(0, 2 * kNameMax), SlotPipeError::kNameInvalid,
                   absl::InvalidArgumentError(absl::StrCat(
                       "a name is 1 to ", kNameMax,
                       " letters, digits, '.', '_' or '-', and begins with a letter or digit")));
}

absl::StatusOr<std::unique_ptr<PipeFile>> PipeFile::Create(absl::string_view name,
                                                           const Layout& layout,
                                                           std::optional<uint32_t> group) {
  if (absl::Status status = CheckPipeName(name); !status.ok()) return status;
  const Directory where = PipesDirectory();
  absl::StatusOr<Fd> directory = OpenDirectory(where, true, group.has_value());
  if (!directory.ok()) return AboutPipe(name, directory.status());
  // Also found out by GiveName; here before memory is taken for it.
  const std::string text(name);
  if (::faccessat(directory->get(), text.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
    return AboutPipe(name, Failed("creating", absl::StrCat(where.path, "/", name), EEXIST));
  }

  // It has no name, so that it vanishes with us if we die now. (O_EXCL here would forbid to name
  // it.)
  std::unique_ptr<ForkGuard> guard = ForkGuard::Open(
      [&] { return ::openat(directory->get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600); });
  if (guard == nullptr) return AboutPipe(name, Failed("creating a file in", where.path, errno));
  const int fd = guard->fd();
  if (group.has_value() &&
      (::fchown(fd, static_cast<uid_t>(-1), *group) != 0 || ::fchmod(fd, 0660) != 0)) {
    return AboutPipe(name, Failed(absl::StrCat("giving to group ", *group), where.path, errno));
  }
  if (absl::Status status = CheckFileSize(layout.file_bytes); !status.ok()) {
    return AboutPipe(name, status);
  }
  // All of it now, because a tmpfs that is full later would kill who touches it (SIGBUS).
  if (const int error = Reserve(fd, layout.file_bytes); error != 0) {
    return AboutPipe(name, Failed(absl::StrCat("reserving ", layout.file_bytes, " bytes in"),
                                  where.path, error == EFBIG ? ENOSPC : error));
  }
  absl::StatusOr<void*> memory = Map(fd, layout.file_bytes, PROT_READ | PROT_WRITE);
  if (!memory.ok()) return AboutPipe(name, memory.status());

  const uint64_t now_ns = UnixNanos();
  const PipeHeader header = MakeHeader(layout, now_ns);
  std::memcpy(*memory, &header, sizeof(header));
  FreeHints(Region(*memory, layout)).SetAll();
  std::unique_ptr<PipeFile> file(new PipeFile(std::move(guard), *memory, layout, now_ns));
  if (absl::Status named = GiveName(directory->get(), where, fd, text); !named.ok()) {
    return AboutPipe(name, named);
  }
  return file;
}

absl::StatusOr<std::unique_ptr<PipeFile>> PipeFile::Open(absl::string_view name, Access access) {
  if (absl::Status status = CheckPipeName(name); !status.ok()) return status;
  const Directory where = PipesDirectory();
  const std::string path = absl::StrCat(where.path, "/", name);
  const auto none = [&] { return NoSuchPipe(name, where.path); };
  absl::StatusOr<Fd> directory = OpenDirectory(where, false, false);
  if (absl::IsNotFound(directory.status())) return none();
  if (!directory.ok()) return AboutPipe(name, directory.status());

  std::unique_ptr<ForkGuard> guard =
      OpenPipe(directory->get(), name, access == Access::kReadWrite ? O_RDWR : O_RDONLY);
  if (guard == nullptr) {
    if (errno == ENOENT) return none();
    return AboutPipe(name, Failed("opening", path, errno));
  }
  const int fd = guard->fd();
  struct stat about;
  if (::fstat(fd, &about) != 0) return AboutPipe(name, Failed("looking at", path, errno));
  const auto unfit = [&](absl::string_view why) {
    return AboutPipe(name, Unsafe(absl::StrCat(path, " ", why)));
  };
  if (!S_ISREG(about.st_mode)) return unfit("is no regular file");
  if (about.st_nlink == 0) return none();  // removed at this moment
  if (about.st_nlink > 1) return unfit("has several names, and a pipe has one");
  if ((about.st_mode & 0007) != 0) return unfit("is open to all users");
  if (about.st_uid != ::geteuid() && (about.st_mode & 0060) != 0060) {
    return unfit(absl::StrCat("belongs to user ", about.st_uid, " alone"));
  }

  PipeHeader header;
  const auto size = static_cast<uint64_t>(about.st_size);
  if (size < sizeof(header) ||
      ::pread(fd, &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header))) {
    return AboutPipe(name, SlotPipeError::kDamaged,
                     absl::DataLossError(absl::StrCat(path, " is too short for a pipe")));
  }
  absl::StatusOr<Layout> layout = CheckHeader(header, size);
  if (!layout.ok()) return AboutPipe(name, layout.status());
  absl::StatusOr<void*> memory = Map(
      fd, layout->file_bytes, access == Access::kReadWrite ? PROT_READ | PROT_WRITE : PROT_READ);
  if (!memory.ok()) return AboutPipe(name, memory.status());
  return std::unique_ptr<PipeFile>(
      new PipeFile(std::move(guard), *memory, *layout, header.created_unix_ns));
}

PipeFile::~PipeFile() { ::munmap(memory_, region_.layout().file_bytes); }

absl::Status UnlinkPipeFile(absl::string_view name) {
  if (absl::Status status = CheckPipeName(name); !status.ok()) return status;
  const Directory where = PipesDirectory();
  absl::StatusOr<Fd> directory = OpenDirectory(where, false, false);
  if (absl::IsNotFound(directory.status())) return NoSuchPipe(name, where.path);
  if (!directory.ok()) return AboutPipe(name, directory.status());
  if (::unlinkat(directory->get(), std::string(name).c_str(), 0) != 0) {
    if (errno == ENOENT) return NoSuchPipe(name, where.path);
    return AboutPipe(name, Failed("removing", absl::StrCat(where.path, "/", name), errno));
  }
  return absl::OkStatus();
}

absl::Status UnlinkUnusedPipeFile(absl::string_view name) {
  if (absl::Status status = CheckPipeName(name); !status.ok()) return status;
  const Directory where = PipesDirectory();
  absl::StatusOr<Fd> directory = OpenDirectory(where, false, false);
  if (absl::IsNotFound(directory.status())) return NoSuchPipe(name, where.path);
  if (!directory.ok()) return AboutPipe(name, directory.status());
  const std::string text(name);
  const auto failed = [&](absl::string_view what) {
    if (errno == ENOENT) return NoSuchPipe(name, where.path);
    return AboutPipe(name, Failed(what, absl::StrCat(where.path, "/", name), errno));
  };
  for (int round = 0; round < 100; ++round) {
    const std::unique_ptr<ForkGuard> file = OpenPipe(directory->get(), name, O_RDWR);
    if (file == nullptr) return failed("removing");
    struct flock all {};
    all.l_type = F_WRLCK;
    all.l_whence = SEEK_SET;
    all.l_len = kJoinByte + 1;
    if (::fcntl(file->fd(), F_OFD_SETLK, &all) != 0) {
      if (errno != EAGAIN && errno != EACCES) return failed("locking");
      return AboutPipe(name, SlotPipeError::kInUse,
                       absl::FailedPreconditionError(
                           "somebody takes part in it, joins it or removes it at this moment; "
                           "try again, or remove the pipe by force"));
    }
    // Nobody joins this file from here on. Is it the one that has the name, still?
    struct stat locked;
    struct stat named;
    if (::fstat(file->fd(), &locked) != 0) return failed("looking at");
    if (::fstatat(directory->get(), text.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0) {
      return failed("removing");
    }
    if (locked.st_ino != named.st_ino || locked.st_dev != named.st_dev) continue;
    if (::unlinkat(directory->get(), text.c_str(), 0) != 0) return failed("removing");
    return absl::OkStatus();
  }
  return AboutPipe(
      name, SlotPipeError::kInUse,
      absl::FailedPreconditionError("others remove and create it again and again; try again"));
}

absl::StatusOr<std::vector<std::string>> ListPipeFiles() {
  std::vector<std::string> names;
  const Directory where = PipesDirectory();
  absl::StatusOr<Fd> directory = OpenDirectory(where, false, false);
  if (absl::IsNotFound(directory.status())) return names;
  if (!directory.ok()) return directory.status();
  DIR* entries = ::fdopendir(directory->get());
  if (entries == nullptr) return Failed("listing", where.path, errno);
  directory->Take();  // closed with `entries`
  while (const dirent* entry = ::readdir(entries)) {
    if (CheckPipeName(entry->d_name).ok()) names.emplace_back(entry->d_name);
  }
  ::closedir(entries);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace mi7::slot_pipe_internal
