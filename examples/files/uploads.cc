#include "examples/files/uploads.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

#include <atomic>
#include <cerrno>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "examples/files/paths.h"

namespace files {
namespace {

// Each holds two descriptors.
constexpr size_t kUploadsMax = 256;
constexpr int64_t kAbandonedAfterNs = 600'000'000'000;

absl::Status NoUpload(uint64_t id) {
  return absl::NotFoundError(absl::StrCat("there is no upload ", id,
                                          ": it was finished, aborted, or forgotten after ten "
                                          "minutes without a write; create it again"));
}

void RemoveContent(int directory) {
  // fdopendir takes the descriptor over, so it gets one of its own.
  DIR* const entries = ::fdopendir(::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (entries == nullptr) return;
  while (const dirent* entry = ::readdir(entries)) ::unlinkat(directory, entry->d_name, 0);
  ::closedir(entries);
}

}  // namespace

struct Uploads::Upload {
  ~Upload() {
    if (!renamed) ::unlinkat(uploads_directory, temporary_name.c_str(), 0);
  }

  int uploads_directory;
  std::string temporary_name;
  Root::Place place;
  mode_t mode;
  bool replace;
  Fd fd;
  std::atomic<int64_t> used_ns;

  // Held shared by writes, and exclusively by what ends the upload: no write comes after that.
  absl::Mutex mutex;
  bool ended ABSL_GUARDED_BY(mutex) = false;
  bool renamed = false;  // by Finish; nobody else has the upload then
};

absl::StatusOr<std::unique_ptr<Uploads>> Uploads::Open(const Root& root) {
  const std::string name(kUploadsName);
  for (;;) {
    if (::mkdirat(root.fd(), name.c_str(), 0700) != 0 && errno != EEXIST) {
      return ErrnoStatus(errno, "make the directory", name);
    }
    Fd directory(
        ::openat(root.fd(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory.valid()) {
      if (errno == ENOENT) continue;  // a server that stopped removed it in between
      return ErrnoStatus(errno, "open the directory", name);
    }
    if (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
      return absl::FailedPreconditionError(
          "another server writes below this root; stop it, or serve with --read_only");
    }
    struct stat locked;
    struct stat named;
    if (::fstat(directory.get(), &locked) != 0) return ErrnoStatus(errno, "look at", name);
    if (::fstatat(root.fd(), name.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0 ||
        named.st_ino != locked.st_ino) {
      continue;  // as above
    }
    RemoveContent(directory.get());
    return std::unique_ptr<Uploads>(new Uploads(root, std::move(directory)));
  }
}

Uploads::~Uploads() {
  {
    absl::MutexLock lock(&mutex_);
    uploads_.clear();
  }
  ::unlinkat(root_.fd(), std::string(kUploadsName).c_str(), AT_REMOVEDIR);
}

void Uploads::ForgetAbandoned(int64_t now_ns) {
  absl::erase_if(uploads_, [now_ns](const auto& entry) {
    return now_ns - entry.second->used_ns.load(std::memory_order_relaxed) > kAbandonedAfterNs;
  });
}

absl::StatusOr<uint64_t> Uploads::Create(Root::Place place, mode_t mode, bool replace,
                                         int64_t now_ns) {
  struct stat existing;
  if (::fstatat(place.directory.get(), place.name.c_str(), &existing, AT_SYMLINK_NOFOLLOW) == 0) {
    if (!replace) return ErrnoStatus(EEXIST, "create", place.path);
    if (!S_ISREG(existing.st_mode)) {
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(place.path), " is not a file and cannot be replaced by one"));
    }
  }
  absl::MutexLock lock(&mutex_);
  ForgetAbandoned(now_ns);
  if (uploads_.size() >= kUploadsMax) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot create ", Quoted(place.path), ": ",
                                                     kUploadsMax,
                                                     " uploads are open; finish some first"));
  }
  // Random, so that nobody writes to another's upload by mistake.
  uint64_t id;
  do {
    id = absl::Uniform<uint64_t>(random_);
  } while (uploads_.contains(id));
  auto upload = std::make_shared<Upload>();
  upload->uploads_directory = directory_.get();
  upload->temporary_name = absl::StrCat(absl::Hex(id, absl::kZeroPad16));
  upload->fd = Fd(::openat(directory_.get(), upload->temporary_name.c_str(),
                           O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!upload->fd.valid()) return ErrnoStatus(errno, "create", place.path);
  upload->place = std::move(place);
  upload->mode = mode;
  upload->replace = replace;
  upload->used_ns.store(now_ns, std::memory_order_relaxed);
  uploads_.emplace(id, std::move(upload));
  return id;
}

absl::Status Uploads::Write(uint64_t id, uint64_t offset, const void* data, size_t size,
                            int64_t now_ns) {
  std::shared_ptr<Upload> upload;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = uploads_.find(id);
    if (found == uploads_.end()) return NoUpload(id);
    upload = found->second;
  }
  upload->used_ns.store(now_ns, std::memory_order_relaxed);
  if (offset > static_cast<uint64_t>(std::numeric_limits<off_t>::max()) - size) {
    return absl::InvalidArgumentError(absl::StrCat("cannot write ", Quoted(upload->place.path),
                                                   ": offset ", offset,
                                                   " is beyond the end of any file"));
  }
  absl::ReaderMutexLock lock(&upload->mutex);
  if (upload->ended) return NoUpload(id);
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::pwrite(upload->fd.get(), from, size, static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "write", upload->place.path);
    }
    from += written;
    offset += static_cast<uint64_t>(written);
    size -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

std::shared_ptr<Uploads::Upload> Uploads::Take(uint64_t id) {
  std::shared_ptr<Upload> upload;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = uploads_.find(id);
    if (found == uploads_.end()) return nullptr;
    upload = std::move(found->second);
    uploads_.erase(found);
  }
  absl::MutexLock lock(&upload->mutex);  // waits for writes
  upload->ended = true;
  return upload;
}

absl::StatusOr<struct stat> Uploads::Finish(uint64_t id, uint64_t size) {
  const std::shared_ptr<Upload> upload = Take(id);
  if (!upload) return NoUpload(id);
  const Root::Place& place = upload->place;
  const int fd = upload->fd.get();

  struct stat info;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, "finish", place.path);
  if (static_cast<uint64_t>(info.st_size) < size) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot finish ", Quoted(place.path), ": it has ", info.st_size, " of ", size,
                     " bytes; write the missing range to a new upload"));
  }
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0 || ::fchmod(fd, upload->mode) != 0) {
    return ErrnoStatus(errno, "finish", place.path);
  }
  if (::renameat2(directory_.get(), upload->temporary_name.c_str(), place.directory.get(),
                  place.name.c_str(), upload->replace ? 0 : RENAME_NOREPLACE) != 0) {
    if (errno == EXDEV) {
      return absl::FailedPreconditionError(absl::StrCat(
          "cannot finish ", Quoted(place.path),
          ": it is on another file system than the served directory; serve that one by itself"));
    }
    return ErrnoStatus(errno, "finish", place.path);
  }
  upload->renamed = true;
  if (::fstat(fd, &info) != 0) return ErrnoStatus(errno, "look at", place.path);
  return info;
}

void Uploads::Abort(uint64_t id) { Take(id); }

}  // namespace files
