#include "transport/local_options.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mi7::transport {

absl::Status CheckLocalOptions(const LocalOptions& options) {
  if (!options.runtime_dir.empty() && options.runtime_dir[0] != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("local.runtime_dir is '", options.runtime_dir, "', must be an absolute path"));
  }
  if ((options.socket_mode & ~mode_t{0777}) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "local.socket_mode is %04o, must be permissions of at most 0777", options.socket_mode));
  }
  const absl::Status shm = CheckShmOptions(options.shm);
  return shm.ok() ? shm : absl::Status(shm.code(), absl::StrCat("local.", shm.message()));
}

}  // namespace mi7::transport
