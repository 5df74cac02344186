#pragma once

// Uploads: files that are being written and that nobody sees until they are whole.
//
// They grow in a hidden directory of the root, so that giving one its name is a single rename. A
// lock on that directory keeps a second server away; what a killed one left in it is removed at
// the next start.

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "examples/files/fd.h"
#include "examples/files/root.h"

namespace files {

// The hidden directory's name in the root. No path may begin with it.
inline constexpr absl::string_view kUploadsName = ".mi7-uploads";

// Thread-safe. The root must outlive it. Errors are those that files.capnp describes.
class Uploads {
 public:
  // FAILED_PRECONDITION when another server writes below this root.
  static absl::StatusOr<std::unique_ptr<Uploads>> Open(const Root& root);
  // Removes what was not finished.
  ~Uploads();

  // `mode`: permission bits. `now_ns`: MonotonicNanos, here and below.
  absl::StatusOr<uint64_t> Create(Root::Place place, mode_t mode, bool replace, int64_t now_ns);
  absl::Status Write(uint64_t id, uint64_t offset, const void* data, size_t size, int64_t now_ns);
  // What the file is, then.
  absl::StatusOr<struct stat> Finish(uint64_t id, uint64_t size);
  void Abort(uint64_t id);

 private:
  struct Upload;
  Uploads(const Root& root, Fd directory) : root_(root), directory_(std::move(directory)) {}
  // Removes it from the table; nullptr when there is none.
  std::shared_ptr<Upload> Take(uint64_t id);
  void ForgetAbandoned(int64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Root& root_;
  const Fd directory_;

  absl::Mutex mutex_;
  absl::BitGen random_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, std::shared_ptr<Upload>> uploads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace files
