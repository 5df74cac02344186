#pragma once

// Root: opens files below one directory, and never one outside of it, whatever the path says and
// whatever symbolic links others make or exchange in the meantime.
//
// The kernel does it where it can (openat2 with RESOLVE_BENEATH, Linux 5.6); elsewhere Root opens
// one component after the other and follows no symbolic link at all.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "examples/files/fd.h"

namespace files {

// Thread-safe.
class Root {
 public:
  enum class Lookup {
    kBest,       // kKernel where there is openat2
    kKernel,     //
    kComponents  // for kernels without
  };

  // The directory that everything is below. NOT_FOUND, PERMISSION_DENIED, FAILED_PRECONDITION (no
  // directory), UNIMPLEMENTED (kKernel asked for and missing).
  static absl::StatusOr<Root> Open(const std::string& directory, Lookup lookup = Lookup::kBest);

  // Opens an existing file, directory or other thing with `flags` of open(2), for those who only
  // look: symbolic links are followed while they stay below the root. Does not wait for the other
  // side of a pipe.
  absl::StatusOr<Fd> OpenToRead(absl::string_view path, int flags) const;

  // Where something of that path is, or is to be made. No symbolic link leads there.
  struct Place {
    Fd directory;
    std::string name;  // in the directory
    std::string path;  // for people
  };
  absl::StatusOr<Place> Locate(absl::string_view path) const;

  // Descriptor of the directory itself.
  int fd() const { return fd_.get(); }

 private:
  Root(Fd fd, bool has_openat2) : fd_(std::move(fd)), has_openat2_(has_openat2) {}
  // -1 and errno on failure.
  int OpenAt2(const std::string& path, int flags, bool follow_links) const;
  int OpenComponents(const std::string& path, int flags) const;

  Fd fd_;
  bool has_openat2_;
};

}  // namespace files
