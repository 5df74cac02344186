#include "examples/files/transfer.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "examples/files/fd.h"
#include "examples/files/paths.h"
#include "examples/files/pipeline.h"

namespace files {
namespace {

// A file of `size` bytes goes in ranges of this size, the last one shorter.
constexpr uint64_t kRangeBytes = RANGE_BYTES_MAX;

size_t RangeCount(uint64_t size) { return size / kRangeBytes + (size % kRangeBytes != 0); }

uint32_t RangeSize(size_t range, uint64_t size) {
  return static_cast<uint32_t>(std::min(kRangeBytes, size - range * kRangeBytes));
}

// Fills `out` from `fd`. FAILED_PRECONDITION when the file ends before.
absl::Status ReadFully(int fd, uint64_t offset, capnp::Data::Builder out, const std::string& path) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got =
        ::pread(fd, out.begin() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "read", path);
    if (got == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(path), " became shorter while it was read; try again"));
    }
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status WriteFully(int fd, uint64_t offset, capnp::Data::Reader data,
                        const std::string& path) {
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t put =
        ::pwrite(fd, data.begin() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return ErrnoStatus(errno, "write", path);
    done += static_cast<size_t>(put);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint64_t> Upload(const FileStoreStub& store, const std::string& local,
                                const std::string& remote, const TransferOptions& options) {
  const Fd fd(::open(local.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "open", local);
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "look at", local);
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(Quoted(local), " is no regular file"));
  }

  auto create = store.Create(options.Call());
  create->setPath(remote);
  create->setMode(info.st_mode & 0777);
  create->setReplace(true);
  auto created = create.Send().Wait();
  if (!created.ok()) return created.status();
  const uint64_t upload = created->getUpload();
  absl::Cleanup abort = [&] {
    auto request = store.Abort(options.Call());
    request->setUpload(upload);
    request.Send().Wait().IgnoreError();  // then the server forgets it later
  };

  const uint64_t size = static_cast<uint64_t>(info.st_size);
  using Write = mi7::PendingCall<FileStore::WriteResults>;
  const auto send = [&](size_t range) -> absl::StatusOr<Write> {
    auto write = store.Write(options.Call());
    write->setUpload(upload);
    write->setOffset(range * kRangeBytes);
    // From the file straight into the message.
    capnp::Data::Builder data = mi7::InitForOverwrite(
        *write, &FileStore::WriteParams::Builder::initData, RangeSize(range, size));
    absl::Status read = ReadFully(fd.get(), range * kRangeBytes, data, local);
    if (!read.ok()) return read;
    return write.Send();
  };
  const auto receive = [&](size_t range, FileStore::WriteResults::Reader) {
    return options.on_range ? options.on_range(RangeSize(range, size)) : absl::OkStatus();
  };
  absl::Status written = Pipeline(RangeCount(size), options.window, send, receive);
  if (!written.ok()) return written;

  auto finish = store.Finish(options.Call());
  finish->setUpload(upload);
  finish->setSize(size);
  std::move(abort).Cancel();  // finish ends the upload in any case
  auto finished = finish.Send().Wait();
  if (!finished.ok()) return finished.status();
  return size;
}

absl::StatusOr<uint64_t> Download(const FileStoreStub& store, const std::string& remote,
                                  const std::string& local, const TransferOptions& options) {
  // What the file is, and of which version all ranges have to be.
  auto stat = store.Stat(options.Call());
  stat->setPath(remote);
  auto found = stat.Send().Wait();
  if (!found.ok()) return found.status();
  const uint64_t size = found->getInfo().getSize();
  const uint64_t version = found->getInfo().getVersion();
  if (found->getInfo().getKind() != Kind::FILE) {
    return absl::FailedPreconditionError(absl::StrCat(Quoted(remote), " is no regular file"));
  }

  // In the same directory, so that it can be renamed, but not named after a name that may be as
  // long as names can be.
  const size_t slash = local.rfind('/');
  std::string partial =
      absl::StrCat(local.substr(0, slash == local.npos ? 0 : slash + 1), ".mi7-get.XXXXXX");
  const Fd fd(::mkostemp(partial.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "create a file beside", local);
  absl::Cleanup remove = [&] { ::unlink(partial.c_str()); };

  using Read = mi7::PendingCall<FileStore::ReadResults>;
  const auto send = [&](size_t range) -> absl::StatusOr<Read> {
    auto read = store.Read(options.Call());
    read->setPath(remote);
    read->setOffset(range * kRangeBytes);
    read->setSize(RangeSize(range, size));
    read->setVersion(version);
    return read.Send();
  };
  const auto receive = [&](size_t range, FileStore::ReadResults::Reader results) {
    const capnp::Data::Reader data = results.getData();
    if (data.size() != RangeSize(range, size)) {
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(remote), " was cut while it was read; try again"));
    }
    absl::Status written = WriteFully(fd.get(), range * kRangeBytes, data, partial);
    if (!written.ok() || !options.on_range) return written;
    return options.on_range(data.size());
  };
  absl::Status read = Pipeline(RangeCount(size), options.window, send, receive);
  if (!read.ok()) return read;

  if (::fchmod(fd.get(), found->getInfo().getMode() & 0777) != 0) {
    return ErrnoStatus(errno, "set the mode of", local);
  }
  if (::rename(partial.c_str(), local.c_str()) != 0) return ErrnoStatus(errno, "replace", local);
  std::move(remove).Cancel();
  return size;
}

}  // namespace files
