#pragma once

// Copies a directory to a file store and back, and compares what came back with what was sent.

#include <atomic>
#include <string>

#include "absl/status/status.h"
#include "examples/files/files.mi7.h"
#include "examples/files/transfer.h"

namespace files {

// How a directory is copied and compared.
struct VerifyOptions {
  TransferOptions transfer;
  // Files that are copied at a time.
  int parallel = 4;
  // Set when it shall end early, at any time and by any thread.
  const std::atomic<bool>* interrupted = nullptr;
};

// Prints its progress and a summary. Symbolic links, devices, sockets and pipes are left out;
// directories are made with their permissions and the owner's. Removes both copies, also after a
// failure. DATA_LOSS when something came back different; else what went wrong on the way.
absl::Status VerifyTree(const FileStoreStub& store, const std::string& directory,
                        const VerifyOptions& options);

}  // namespace files
