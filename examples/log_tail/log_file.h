#pragma once

// LogFile: a file that others append to, read from near its end on.

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace log_tail {

// One thread at a time.
class LogFile {
 public:
  // Stands before the last `last_lines` lines of the file. A file that does not exist yet is empty.
  // Errors: the system's, with the path.
  static absl::StatusOr<LogFile> Open(std::string path, uint32_t last_lines);
  LogFile(LogFile&& other) noexcept;
  LogFile& operator=(LogFile&&) = delete;
  ~LogFile();

  // Reads what follows; 0: nothing yet.
  absl::StatusOr<size_t> Read(absl::Span<char> buffer);
  // After Read gave 0: whether the file has become shorter than what was read of it, or the path
  // leads to another file. Then the next Read is of its start.
  absl::StatusOr<bool> Restarted();
  // Of the next byte.
  uint64_t offset() const { return offset_; }

 private:
  explicit LogFile(std::string path) : path_(std::move(path)) {}
  // Opens the path, if there is something; offset_ stays.
  absl::Status OpenFile();
  absl::Status SkipToLastLines(uint32_t last_lines);

  std::string path_;
  int fd_ = -1;  // while there is no file: -1
  uint64_t offset_ = 0;
};

}  // namespace log_tail
