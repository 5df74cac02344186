#include "examples/log_tail/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace log_tail {
namespace {

absl::Status Failed(absl::string_view what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot ", what, " '", path, "'"));
}

}  // namespace

absl::StatusOr<LogFile> LogFile::Open(std::string path, uint32_t last_lines) {
  LogFile file(std::move(path));
  if (absl::Status opened = file.OpenFile(); !opened.ok()) return opened;
  if (absl::Status skipped = file.SkipToLastLines(last_lines); !skipped.ok()) return skipped;
  return file;
}

LogFile::LogFile(LogFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), offset_(other.offset_) {}

LogFile::~LogFile() {
  if (fd_ >= 0) ::close(fd_);
}

absl::Status LogFile::OpenFile() {
  // Not blocking: the path may have become a pipe's.
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return errno == ENOENT ? absl::OkStatus() : Failed("open", path_);
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return absl::FailedPreconditionError(absl::StrCat("'", path_, "' is no regular file"));
  }
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
  return absl::OkStatus();
}

absl::Status LogFile::SkipToLastLines(uint32_t last_lines) {
  if (fd_ < 0) return absl::OkStatus();
  struct stat info;
  if (::fstat(fd_, &info) != 0) return Failed("look at", path_);
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  offset_ = size;
  // Backwards, in blocks, until there are so many ends of lines in front of the last byte.
  char block[1 << 16];
  uint64_t begin = size;
  uint32_t ends = 0;
  while (begin > 0 && last_lines > 0) {
    const size_t wanted = std::min<uint64_t>(sizeof block, begin);
    begin -= wanted;
    const ssize_t got = ::pread(fd_, block, wanted, static_cast<off_t>(begin));
    if (got < 0) return Failed("read", path_);
    for (size_t i = static_cast<size_t>(got); i-- > 0;) {
      const uint64_t after = begin + i + 1;
      if (block[i] == '\n' && after < size && ++ends == last_lines) {
        offset_ = after;
        return absl::OkStatus();
      }
    }
    offset_ = begin;
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> LogFile::Read(absl::Span<char> buffer) {
  if (fd_ < 0) return 0;
  for (;;) {
    const ssize_t got = ::pread(fd_, buffer.data(), buffer.size(), static_cast<off_t>(offset_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Failed("read", path_);
    offset_ += static_cast<uint64_t>(got);
    return static_cast<size_t>(got);
  }
}

absl::StatusOr<bool> LogFile::Restarted() {
  struct stat now;
  if (::stat(path_.c_str(), &now) != 0) {
    // Between the moves of a rotation there is no file: what is open is read on.
    return errno == ENOENT ? absl::StatusOr<bool>(false) : Failed("look at", path_);
  }
  struct stat open;
  if (fd_ >= 0 && ::fstat(fd_, &open) != 0) return Failed("look at", path_);
  if (fd_ >= 0 && now.st_ino == open.st_ino && now.st_dev == open.st_dev) {
    if (static_cast<uint64_t>(open.st_size) >= offset_) return false;
    offset_ = 0;
    return true;
  }
  // What was appended to the old file in the meantime comes first.
  if (fd_ >= 0 && static_cast<uint64_t>(open.st_size) > offset_) return false;
  const bool first = fd_ < 0;
  if (absl::Status opened = OpenFile(); !opened.ok()) return opened;
  if (fd_ < 0) return false;
  offset_ = 0;
  return !first;
}

}  // namespace log_tail
