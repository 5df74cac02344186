#pragma once

// PipeFile: the named file that a slot pipe lives in. It belongs to one user (or one group), lies
// in a directory of that user, and gets its name only after it is complete, so that nobody ever
// sees half a pipe and a crash of its creator leaves nothing.
//
// The directory is $MI7_RUNTIME_DIR/pipes, else $XDG_RUNTIME_DIR/mi7/pipes, else
// /dev/shm/mi7-<uid>/pipes. The latter two are on a tmpfs; of the first that is up to the user.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "transport/slot_pipe/fork_guard.h"
#include "transport/slot_pipe/region.h"
#include "transport/slot_pipe/slot_pipe_error.h"

namespace mi7::slot_pipe_internal {

// OK for 1 to 64 of A-Z a-z 0-9 . _ - with a letter or digit first; else INVALID_ARGUMENT.
absl::Status CheckPipeName(absl::string_view name);

// An open and mapped pipe file. Immutable; closes and unmaps when destroyed.
class PipeFile {
 public:
  // Makes the file. ALREADY_EXISTS; RESOURCE_EXHAUSTED when tmpfs has no room; PERMISSION_DENIED;
  // FAILED_PRECONDITION when the directory cannot be trusted. With a group, its members can
  // connect, as far as the directory lets them in.
  static absl::StatusOr<std::unique_ptr<PipeFile>> Create(absl::string_view name,
                                                          const Layout& layout,
                                                          std::optional<uint32_t> group);
  enum class Access { kReadWrite, kReadOnly };
  // Opens an existing one. NOT_FOUND; PERMISSION_DENIED; FAILED_PRECONDITION for another version or
  // a file that is not what a pipe's should be; DATA_LOSS when it was damaged.
  static absl::StatusOr<std::unique_ptr<PipeFile>> Open(absl::string_view name, Access access);

  ~PipeFile();
  PipeFile(const PipeFile&) = delete;
  PipeFile& operator=(const PipeFile&) = delete;

  int fd() const { return descriptor_->fd(); }
  const ForkGuard& fork_guard() const { return *descriptor_; }
  const Region& region() const { return region_; }
  uint64_t created_unix_ns() const { return created_unix_ns_; }

 private:
  PipeFile(std::unique_ptr<ForkGuard> descriptor, void* memory, const Layout& layout,
           uint64_t created_unix_ns)
      : descriptor_(std::move(descriptor)),
        memory_(memory),
        region_(memory, layout),
        created_unix_ns_(created_unix_ns) {}

  const std::unique_ptr<ForkGuard> descriptor_;
  void* const memory_;
  const Region region_;
  const uint64_t created_unix_ns_;
};

// Takes the name away; whoever has the pipe open keeps it. NOT_FOUND, PERMISSION_DENIED.
absl::Status UnlinkPipeFile(absl::string_view name);
// The same while nobody takes part, joins, or removes it as well, all of whom have locked a byte of
// it (kJoinByte); else FAILED_PRECONDITION. A pipe that got its name meanwhile is looked at anew.
absl::Status UnlinkUnusedPipeFile(absl::string_view name);

// The names of all pipe files, sorted. None when there is no directory yet.
absl::StatusOr<std::vector<std::string>> ListPipeFiles();

}  // namespace mi7::slot_pipe_internal
