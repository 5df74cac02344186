#pragma once

// Whole files to a file store and back.
//
// A file goes in ranges, several of which are on their way at a time.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "examples/files/files.mi7.h"
#include "rpc/call_options.h"

namespace files {

// How files travel.
struct TransferOptions {
  // How long to wait for each answer.
  absl::Duration call_timeout = absl::Seconds(30);
  // Ranges of one file that are on their way at a time; at least 1.
  size_t window = 4;
  // Told of each range that has arrived, by the transfer's thread; a failure that it returns ends
  // the transfer. May be empty.
  std::function<absl::Status(uint64_t bytes)> on_range;

  // For a call that begins now.
  mi7::CallOptions Call() const { return {.deadline = mi7::Deadline::After(call_timeout)}; }
};

// Both return the number of bytes, keep the file's permissions, and show the new file only when it
// is whole; on failure they leave what was there before. Thread-safe, also for one stub.
// Errors: those of the calls (files.capnp), and of the local file, which they name.

// Replaces what is at `remote`.
absl::StatusOr<uint64_t> Upload(const FileStoreStub& store, const std::string& local,
                                const std::string& remote, const TransferOptions& options);

// Replaces what is at `local`. FAILED_PRECONDITION when the file changes on the server meanwhile.
absl::StatusOr<uint64_t> Download(const FileStoreStub& store, const std::string& remote,
                                  const std::string& local, const TransferOptions& options);

}  // namespace files
