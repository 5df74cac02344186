#include "examples/files/transfer.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "examples/files/fd.h"
#include "examples/files/paths.h"

namespace files {
namespace {

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
  std::deque<mi7::PendingCall<FileStore::WriteResults>> pending;
  for (uint64_t offset = 0; offset < size || !pending.empty();) {
    if (offset < size && pending.size() < options.window) {
      const uint64_t count = std::min<uint64_t>(RANGE_BYTES_MAX, size - offset);
      auto write = store.Write(options.Call());
      write->setUpload(upload);
      write->setOffset(offset);
      // From the file straight into the message.
      absl::Status read =
          ReadFully(fd.get(), offset, write->initData(static_cast<unsigned>(count)), local);
      if (!read.ok()) return read;
      pending.push_back(write.Send());
      offset += count;
    } else {
      auto written = pending.front().Wait();
      if (!written.ok()) return written.status();
      pending.pop_front();
    }
  }

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
  uint64_t version = 0;
  const auto read_at = [&](uint64_t offset) {
    auto read = store.Read(options.Call());
    read->setPath(remote);
    read->setOffset(offset);
    read->setSize(RANGE_BYTES_MAX);
    read->setVersion(version);
    return read.Send();
  };
  // The first range tells how many there are, and of which version of the file.
  auto first = read_at(0).Wait();
  if (!first.ok()) return first.status();
  version = first->getInfo().getVersion();
  const uint64_t size = first->getInfo().getSize();

  std::string partial = absl::StrCat(local, ".XXXXXX");
  const Fd fd(::mkostemp(partial.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "create a file beside", local);
  absl::Cleanup remove = [&] { ::unlink(partial.c_str()); };

  const auto store_range = [&](uint64_t offset, capnp::Data::Reader data) {
    const uint64_t expected = std::min<uint64_t>(RANGE_BYTES_MAX, size - offset);
    if (data.size() != expected) {
      return absl::FailedPreconditionError(
          absl::StrCat(Quoted(remote), " was cut while it was read; try again"));
    }
    return WriteFully(fd.get(), offset, data, partial);
  };
  if (absl::Status stored = store_range(0, first->getData()); !stored.ok()) return stored;

  std::deque<std::pair<uint64_t, mi7::PendingCall<FileStore::ReadResults>>> pending;
  for (uint64_t next = RANGE_BYTES_MAX; next < size || !pending.empty();) {
    if (next < size && pending.size() < options.window) {
      pending.emplace_back(next, read_at(next));
      next += RANGE_BYTES_MAX;
    } else {
      auto& [offset, call] = pending.front();
      auto range = call.Wait();
      if (!range.ok()) return range.status();
      if (absl::Status stored = store_range(offset, range->getData()); !stored.ok()) return stored;
      pending.pop_front();
    }
  }

  if (::fchmod(fd.get(), first->getInfo().getMode() & 0777) != 0) {
    return ErrnoStatus(errno, "set the mode of", local);
  }
  if (::rename(partial.c_str(), local.c_str()) != 0) return ErrnoStatus(errno, "replace", local);
  std::move(remove).Cancel();
  return size;
}

}  // namespace files
