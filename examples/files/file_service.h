#pragma once

// The file store: files.capnp over a directory of this machine.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "examples/files/files.mi7.h"
#include "examples/files/root.h"
#include "examples/files/uploads.h"
#include "examples/files/worker_pool.h"

namespace files {

// Must outlive the server that it is added to.
//
// A handler here takes its parameters apart at once, on the thread that received the call, where
// mi7 answers a malformed message for it. The file system may make one wait, so a worker does the
// rest and answers.
class FileService final : public FileStoreService {
 public:
  struct Options {
    bool read_only = false;
    // Threads that use the file system; 0: two for every CPU.
    int threads = 0;
    Root::Lookup lookup = Root::Lookup::kBest;
  };
  // Errors: those of Root::Open and Uploads::Open.
  static absl::StatusOr<std::unique_ptr<FileService>> Create(const std::string& directory,
                                                             const Options& options);

  mi7::Reply Stat(mi7::ServerContext& context, FileStore::StatParams::Reader params,
                  FileStore::StatResults::Builder results) override;
  mi7::Reply List(mi7::ServerContext& context, FileStore::ListParams::Reader params,
                  FileStore::ListResults::Builder results) override;
  mi7::Reply Read(mi7::ServerContext& context, FileStore::ReadParams::Reader params,
                  FileStore::ReadResults::Builder results) override;
  mi7::Reply MakeDirectory(mi7::ServerContext& context,
                           FileStore::MakeDirectoryParams::Reader params,
                           FileStore::MakeDirectoryResults::Builder results) override;
  mi7::Reply Remove(mi7::ServerContext& context, FileStore::RemoveParams::Reader params,
                    FileStore::RemoveResults::Builder results) override;
  mi7::Reply Create(mi7::ServerContext& context, FileStore::CreateParams::Reader params,
                    FileStore::CreateResults::Builder results) override;
  mi7::Reply Write(mi7::ServerContext& context, FileStore::WriteParams::Reader params,
                   FileStore::WriteResults::Builder results) override;
  mi7::Reply Finish(mi7::ServerContext& context, FileStore::FinishParams::Reader params,
                    FileStore::FinishResults::Builder results) override;
  mi7::Reply Abort(mi7::ServerContext& context, FileStore::AbortParams::Reader params,
                   FileStore::AbortResults::Builder results) override;

 private:
  FileService(Root root, const Options& options);
  // Answers the call with what `work()` returns, on a worker.
  template <typename Work>
  mi7::Reply OnWorker(mi7::ServerContext& context, Work work);
  // OK when this server changes files.
  absl::Status CheckWritable() const;
  // OK when it changes what is at `path`, and `mode` is one for files.
  absl::Status CheckChange(absl::string_view path, uint16_t mode) const;

  const Root root_;
  std::unique_ptr<Uploads> uploads_;  // nullptr when read-only
  WorkerPool workers_;                // last: its threads use all of the above
};

}  // namespace files
