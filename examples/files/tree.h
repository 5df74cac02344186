#pragma once

// What is in a directory and below it, here or on a file store.

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "examples/files/files.mi7.h"
#include "examples/files/transfer.h"

namespace files {

// Paths are relative to the directory. Directories are in the order of their depth.
struct Tree {
  struct Item {
    std::string path;
    mode_t mode;    // permission bits
    uint64_t size;  // bytes; 0 for directories
  };
  std::vector<Item> directories;
  std::vector<Item> files;
  uint64_t bytes = 0;
  // What is neither: symbolic links, and devices, sockets and pipes.
  size_t links = 0;
  size_t others = 0;
};

// Follows no symbolic links below `directory`.
absl::StatusOr<Tree> ScanLocal(const std::string& directory);

// Trusts no name that the server sends.
absl::StatusOr<Tree> ScanRemote(const FileStoreStub& store, const std::string& directory,
                                const TransferOptions& options);

// Makes `directories` (as a Tree has them) with their modes in the directory `top`.
absl::Status MakeRemoteDirectories(const FileStoreStub& store, const std::string& top,
                                   const std::vector<Tree::Item>& directories,
                                   const TransferOptions& options);

// Removes `directory` and all that is in it from the file store.
absl::Status RemoveRemote(const FileStoreStub& store, const std::string& directory,
                          const TransferOptions& options);

// Calls `page` with the entries of a remote directory, a page of them at a time, in their order.
using EntryPage = capnp::List<Entry>::Reader;
absl::Status ListRemote(const FileStoreStub& store, const std::string& directory,
                        const TransferOptions& options,
                        absl::FunctionRef<absl::Status(EntryPage)> page);

}  // namespace files
