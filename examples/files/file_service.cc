#include "examples/files/file_service.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <exception>
#include <iterator>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/deadline.h"
#include "examples/files/paths.h"

namespace files {
namespace {

constexpr mode_t kPermissionBits = 0777;
// Calls that may wait for a worker. Whatever callers can pile up needs a bound.
constexpr size_t kWaitingMax = 4096;

std::string Text(capnp::Text::Reader text) { return std::string(text.begin(), text.size()); }

// What only uploads may use is not there for anybody else.
absl::Status CheckNotReserved(absl::string_view path) {
  if (path == kUploadsName || absl::StartsWith(path, absl::StrCat(kUploadsName, "/"))) {
    return absl::PermissionDeniedError(
        absl::StrCat(Quoted(path), " is this server's own; choose another name"));
  }
  return absl::OkStatus();
}

Kind KindOf(const struct stat& info) {
  if (S_ISREG(info.st_mode)) return Kind::FILE;
  if (S_ISDIR(info.st_mode)) return Kind::DIRECTORY;
  if (S_ISLNK(info.st_mode)) return Kind::SYMLINK;
  return Kind::OTHER;
}

int64_t Nanos(const timespec& time) { return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec; }

// Mixes what changes with a file's content into one number (the finalizer of SplitMix64).
uint64_t VersionOf(const struct stat& info) {
  uint64_t version = 0;
  for (uint64_t part : {static_cast<uint64_t>(info.st_ino), static_cast<uint64_t>(info.st_size),
                        static_cast<uint64_t>(Nanos(info.st_ctim))}) {
    version += part + 0x9e3779b97f4a7c15;
    version = (version ^ (version >> 30)) * 0xbf58476d1ce4e5b9;
    version = (version ^ (version >> 27)) * 0x94d049bb133111eb;
    version ^= version >> 31;
  }
  return version != 0 ? version : 1;
}

void Fill(FileInfo::Builder out, const struct stat& info) {
  out.setKind(KindOf(info));
  out.setSize(S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0);
  out.setMode(info.st_mode & kPermissionBits);
  out.setModifiedNs(Nanos(info.st_mtim));
  out.setVersion(VersionOf(info));
}

// Reads until `size` bytes or the end of the file; the number of bytes, or -1 and errno.
ssize_t ReadRange(int fd, uint64_t offset, unsigned char* out, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::pread(fd, out + done, size - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return -1;
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  return static_cast<ssize_t>(done);
}

struct DirCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

// The first `count` names after `after`, in order. Memory is bounded by `count`, however large the
// directory.
absl::StatusOr<std::set<std::string>> NamesAfter(DIR* directory, absl::string_view path,
                                                 const std::string& after, size_t count) {
  std::set<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(directory);
    if (entry == nullptr) break;
    const absl::string_view name = entry->d_name;
    if (name == "." || name == ".." || name <= after) continue;
    if (path == "." && name == kUploadsName) continue;
    if (names.size() == count && name >= *names.rbegin()) continue;
    names.emplace(name);
    if (names.size() > count) names.erase(std::prev(names.end()));
  }
  if (errno != 0) return ErrnoStatus(errno, "list", path);
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FileService>> FileService::Create(const std::string& directory,
                                                                 const Options& options) {
  absl::StatusOr<Root> root = Root::Open(directory, options.lookup);
  if (!root.ok()) return root.status();
  std::unique_ptr<FileService> service(new FileService(*std::move(root), options));
  if (!options.read_only) {
    absl::StatusOr<std::unique_ptr<Uploads>> uploads = Uploads::Open(service->root_);
    if (!uploads.ok()) return uploads.status();
    service->uploads_ = *std::move(uploads);
  }
  return service;
}

FileService::FileService(Root root, const Options& options)
    : root_(std::move(root)),
      workers_(options.threads > 0 ? options.threads
                                   : 2 * static_cast<int>(std::thread::hardware_concurrency()),
               kWaitingMax) {}

template <typename Work>
mi7::Reply FileService::OnWorker(mi7::ServerContext& context, Work work) {
  workers_.Submit(
      [&context, call = context.Defer(), work = std::move(work)](absl::Status status) mutable {
        if (status.ok() && context.cancelled()) {
          status = context.deadline().passed()
                       ? absl::DeadlineExceededError("the deadline passed before its turn came")
                       : absl::CancelledError("the caller gave up before its turn came");
        }
        if (status.ok()) {
          try {
            status = work();
          } catch (const std::exception& exception) {  // no memory, for instance
            status = absl::InternalError(exception.what());
          }
        }
        call.Finish(std::move(status));
      });
  return mi7::Reply::Later();
}

absl::Status FileService::CheckWritable() const {
  if (uploads_) return absl::OkStatus();
  return absl::PermissionDeniedError(
      "this server changes nothing: it was started with --read_only");
}

absl::Status FileService::CheckChange(absl::string_view path, uint16_t mode) const {
  if (absl::Status checked = CheckPath(path); !checked.ok()) return checked;
  if (absl::Status allowed = CheckNotReserved(path); !allowed.ok()) return allowed;
  if (absl::Status writable = CheckWritable(); !writable.ok()) {
    return absl::Status(writable.code(),
                        absl::StrCat("cannot change ", Quoted(path), ": ", writable.message()));
  }
  if ((mode & ~kPermissionBits) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("mode 0%o of %s has more than the bits 0777", mode, Quoted(path)));
}

mi7::Reply FileService::Stat(mi7::ServerContext& context, FileStore::StatParams::Reader params,
                             FileStore::StatResults::Builder results) {
  return OnWorker(context, [this, path = Text(params.getPath()), results]() mutable {
    if (absl::Status allowed = CheckNotReserved(path); !allowed.ok()) return allowed;
    absl::StatusOr<Fd> fd = root_.OpenToRead(path, O_PATH);
    if (!fd.ok()) return fd.status();
    struct stat info;
    if (::fstat(fd->get(), &info) != 0) return ErrnoStatus(errno, "look at", path);
    Fill(results.initInfo(), info);
    return absl::OkStatus();
  });
}

mi7::Reply FileService::List(mi7::ServerContext& context, FileStore::ListParams::Reader params,
                             FileStore::ListResults::Builder results) {
  uint32_t limit = params.getLimit();
  if (limit == 0 || limit > ENTRIES_MAX) limit = ENTRIES_MAX;
  return OnWorker(context, [this, path = Text(params.getPath()), after = Text(params.getAfter()),
                            limit, results]() mutable {
    if (absl::Status allowed = CheckNotReserved(path); !allowed.ok()) return allowed;
    absl::StatusOr<Fd> fd = root_.OpenToRead(path, O_RDONLY | O_DIRECTORY);
    if (!fd.ok()) return fd.status();
    const std::unique_ptr<DIR, DirCloser> directory(::fdopendir(fd->get()));
    if (!directory) return ErrnoStatus(errno, "list", path);
    const int directory_fd = fd->Release();  // now the DIR's

    // One page; a further one when others have removed all that was on it.
    std::vector<std::pair<std::string, struct stat>> found;
    bool more = true;
    while (more && found.empty()) {
      ::rewinddir(directory.get());
      // One name more than asked for tells whether there are more.
      absl::StatusOr<std::set<std::string>> names =
          NamesAfter(directory.get(), path, after, limit + size_t{1});
      if (!names.ok()) return names.status();
      more = names->size() > limit;
      if (more) names->erase(std::prev(names->end()));
      for (const std::string& name : *names) {
        struct stat info;
        if (::fstatat(directory_fd, name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
          found.emplace_back(name, info);
        }
        after = name;
      }
    }
    results.setMore(more);
    auto entries = results.initEntries(static_cast<unsigned>(found.size()));
    for (unsigned i = 0; i < entries.size(); ++i) {
      entries[i].setName(found[i].first);
      Fill(entries[i].initInfo(), found[i].second);
    }
    return absl::OkStatus();
  });
}

mi7::Reply FileService::Read(mi7::ServerContext& context, FileStore::ReadParams::Reader params,
                             FileStore::ReadResults::Builder results) {
  const uint64_t offset = params.getOffset();
  const uint32_t size = params.getSize();
  const uint64_t version = params.getVersion();
  std::string path = Text(params.getPath());
  if (size > RANGE_BYTES_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", size, " bytes of ", Quoted(path),
                                                   " at once; at most ", RANGE_BYTES_MAX));
  }
  return OnWorker(
      context, [this, path = std::move(path), offset, size, version, results]() mutable {
        if (absl::Status allowed = CheckNotReserved(path); !allowed.ok()) return allowed;
        absl::StatusOr<Fd> fd = root_.OpenToRead(path, O_RDONLY);
        if (!fd.ok()) return fd.status();
        struct stat info;
        if (::fstat(fd->get(), &info) != 0) return ErrnoStatus(errno, "look at", path);
        if (!S_ISREG(info.st_mode)) {
          return absl::FailedPreconditionError(absl::StrCat(
              "cannot read ", Quoted(path), ": it is ",
              S_ISDIR(info.st_mode) ? "a directory; list it instead" : "no regular file"));
        }
        if (version != 0 && version != VersionOf(info)) {
          return absl::FailedPreconditionError(
              absl::StrCat(Quoted(path), " has changed since version ", version, "; read it anew"));
        }
        Fill(results.initInfo(), info);
        const uint64_t file_size = static_cast<uint64_t>(info.st_size);
        const size_t want = offset < file_size ? std::min<uint64_t>(size, file_size - offset) : 0;

        // From the file straight into the message.
        capnp::Data::Builder data = mi7::InitForOverwrite(
            results, &FileStore::ReadResults::Builder::initData, static_cast<unsigned>(want));
        const ssize_t got = ReadRange(fd->get(), offset, data.begin(), want);
        if (got < 0) return ErrnoStatus(errno, "read", path);
        if (static_cast<size_t>(got) < want) {  // somebody cuts it at this moment
          std::memset(data.begin() + got, 0, want - static_cast<size_t>(got));
          capnp::Orphan<capnp::Data> shorter = results.disownData();
          shorter.truncate(static_cast<unsigned>(got));
          results.adoptData(kj::mv(shorter));
        }
        return absl::OkStatus();
      });
}

mi7::Reply FileService::MakeDirectory(mi7::ServerContext& context,
                                      FileStore::MakeDirectoryParams::Reader params,
                                      FileStore::MakeDirectoryResults::Builder) {
  const uint16_t mode = params.getMode();
  return OnWorker(context, [this, path = Text(params.getPath()), mode] {
    if (absl::Status allowed = CheckChange(path, mode); !allowed.ok()) return allowed;
    absl::StatusOr<Root::Place> place = root_.Locate(path);
    if (!place.ok()) return place.status();
    const int parent = place->directory.get();
    // Usable by us until it has its mode, which mkdirat would make subject to the umask.
    if (::mkdirat(parent, place->name.c_str(), 0700) != 0) {
      return ErrnoStatus(errno, "make the directory", path);
    }
    const Fd made(
        ::openat(parent, place->name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!made.valid() || ::fchmod(made.get(), mode) != 0) {
      return ErrnoStatus(errno, "set the mode of", path);
    }
    return absl::OkStatus();
  });
}

mi7::Reply FileService::Remove(mi7::ServerContext& context, FileStore::RemoveParams::Reader params,
                               FileStore::RemoveResults::Builder) {
  return OnWorker(context, [this, path = Text(params.getPath())] {
    if (absl::Status allowed = CheckChange(path, 0); !allowed.ok()) return allowed;
    absl::StatusOr<Root::Place> place = root_.Locate(path);
    if (!place.ok()) return place.status();
    const int parent = place->directory.get();
    if (::unlinkat(parent, place->name.c_str(), 0) == 0) return absl::OkStatus();
    if (errno != EISDIR) return ErrnoStatus(errno, "remove", path);
    if (::unlinkat(parent, place->name.c_str(), AT_REMOVEDIR) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, "remove the directory", path);
  });
}

mi7::Reply FileService::Create(mi7::ServerContext& context, FileStore::CreateParams::Reader params,
                               FileStore::CreateResults::Builder results) {
  const uint16_t mode = params.getMode();
  const bool replace = params.getReplace();
  return OnWorker(context, [this, path = Text(params.getPath()), mode, replace, results]() mutable {
    if (absl::Status allowed = CheckChange(path, mode); !allowed.ok()) return allowed;
    absl::StatusOr<Root::Place> place = root_.Locate(path);
    if (!place.ok()) return place.status();
    absl::StatusOr<uint64_t> upload =
        uploads_->Create(*std::move(place), mode, replace, mi7::MonotonicNanos());
    if (!upload.ok()) return upload.status();
    results.setUpload(*upload);
    return absl::OkStatus();
  });
}

mi7::Reply FileService::Write(mi7::ServerContext& context, FileStore::WriteParams::Reader params,
                              FileStore::WriteResults::Builder) {
  // Written from where the message arrived: it stays there until the call is answered.
  const capnp::Data::Reader data = params.getData();
  const uint64_t upload = params.getUpload();
  const uint64_t offset = params.getOffset();
  if (data.size() > RANGE_BYTES_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot write ", data.size(), " bytes at once; at most ", RANGE_BYTES_MAX));
  }
  return OnWorker(context, [this, upload, offset, data] {
    if (absl::Status allowed = CheckWritable(); !allowed.ok()) return allowed;
    return uploads_->Write(upload, offset, data.begin(), data.size(), mi7::MonotonicNanos());
  });
}

mi7::Reply FileService::Finish(mi7::ServerContext& context, FileStore::FinishParams::Reader params,
                               FileStore::FinishResults::Builder results) {
  const uint64_t upload = params.getUpload();
  const uint64_t size = params.getSize();
  return OnWorker(context, [this, upload, size, results]() mutable {
    if (absl::Status allowed = CheckWritable(); !allowed.ok()) return allowed;
    absl::StatusOr<struct stat> info = uploads_->Finish(upload, size);
    if (!info.ok()) return info.status();
    Fill(results.initInfo(), *info);
    return absl::OkStatus();
  });
}

mi7::Reply FileService::Abort(mi7::ServerContext& context, FileStore::AbortParams::Reader params,
                              FileStore::AbortResults::Builder) {
  const uint64_t upload = params.getUpload();
  return OnWorker(context, [this, upload] {
    if (absl::Status allowed = CheckWritable(); !allowed.ok()) return allowed;
    uploads_->Abort(upload);
    return absl::OkStatus();
  });
}

}  // namespace files
