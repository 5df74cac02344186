#include "transport/local/runtime_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mi7::transport {
namespace {

constexpr absl::string_view kWayOut = "or set MI7_RUNTIME_DIR to another directory";

std::string Variable(const char* name) {
  const char* const value = ::secure_getenv(name);
  return value == nullptr ? "" : value;
}

bool IsOurDirectory(const std::string& path, uid_t uid) {
  struct stat found;
  return ::stat(path.c_str(), &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == uid;
}

absl::Status OpenError(absl::string_view what, const std::string& path, int error) {
  const std::string text = absl::StrCat(what, " ", path, ": ", ::strerror(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(text);
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(text);
    default:
      return absl::FailedPreconditionError(text);
  }
}

// Why it cannot be trusted; "" when it can.
std::string Distrust(const std::string& path, const struct stat& found) {
  if (found.st_uid != ::geteuid()) {
    return absl::StrCat("it belongs to uid ", found.st_uid, ", not to us, uid ", ::geteuid(),
                        "; remove it, ", kWayOut);
  }
  if ((found.st_mode & 077) != 0) {
    return absl::StrFormat("its mode is %04o, which lets others in; run chmod 700 '%s', %s",
                           found.st_mode & 07777, path, kWayOut);
  }
  return "";
}

}  // namespace

absl::StatusOr<Directory> Directory::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return OpenError("directory", path, errno);
  return Directory(std::move(fd), path);
}

std::string Directory::PathOf(absl::string_view name) const {
  return absl::StrCat(path_, absl::EndsWith(path_, "/") ? "" : "/", name);
}

RuntimeDirEnvironment RuntimeDirEnvironment::Current() {
  RuntimeDirEnvironment environment;
  environment.mi7_runtime_dir = Variable("MI7_RUNTIME_DIR");
  environment.xdg_runtime_dir = Variable("XDG_RUNTIME_DIR");
  environment.uid = ::geteuid();
  return environment;
}

absl::StatusOr<std::vector<std::string>> RuntimeDirs(absl::string_view configured,
                                                     const RuntimeDirEnvironment& environment) {
  const std::pair<absl::string_view, absl::string_view> chosen[] = {
      {configured, "the runtime directory"},
      {environment.mi7_runtime_dir, "MI7_RUNTIME_DIR"},
  };
  for (const auto& [path, name] : chosen) {
    if (path.empty()) continue;
    if (path[0] != '/') {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is '", path, "', must be an absolute path"));
    }
    return std::vector<std::string>{std::string(path)};
  }
  std::vector<std::string> paths;
  const auto add = [&paths](std::string path) {
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) {
      paths.push_back(std::move(path));
    }
  };
  const std::string& xdg = environment.xdg_runtime_dir;
  // A relative one is invalid, says the XDG Base Directory Specification. One of another user comes
  // from programs such as sudo, which keep the environment.
  if (absl::StartsWith(xdg, "/") && IsOurDirectory(xdg, environment.uid)) {
    add(absl::StrCat(xdg, absl::EndsWith(xdg, "/") ? "" : "/", "mi7"));
  }
  const std::string run = absl::StrCat(environment.run_user, "/", environment.uid);
  if (IsOurDirectory(run, environment.uid)) add(absl::StrCat(run, "/mi7"));
  add(absl::StrCat(environment.tmp, "/mi7-", environment.uid));
  return paths;
}

absl::StatusOr<Directory> OpenRuntimeDir(const std::string& path) {
  constexpr absl::string_view kWhat = "runtime directory";
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat found;
  if (!fd) {
    const int error = errno;
    if ((error == ELOOP || error == ENOTDIR) && ::lstat(path.c_str(), &found) == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          kWhat, " ", path, ": it is ", S_ISLNK(found.st_mode) ? "a symbolic link" : "no directory",
          "; remove it, ", kWayOut));
    }
    absl::Status status = OpenError(kWhat, path, error);
    if (absl::IsNotFound(status) || ::lstat(path.c_str(), &found) != 0) return status;
    // Exact when it is the one that others put there.
    const std::string distrust = Distrust(path, found);
    return distrust.empty()
               ? status
               : absl::FailedPreconditionError(absl::StrCat(kWhat, " ", path, ": ", distrust));
  }
  if (::fstat(fd.get(), &found) != 0) return OpenError(kWhat, path, errno);
  if (const std::string distrust = Distrust(path, found); !distrust.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(kWhat, " ", path, ": ", distrust));
  }
  return Directory(std::move(fd), path);
}

absl::StatusOr<Directory> MakeRuntimeDir(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    const int error = errno;
    absl::Status status = OpenError("runtime directory", path, error);
    if (error == ENOENT) {
      return absl::NotFoundError(
          absl::StrCat(status.message(), " (its parent directory is missing)"));
    }
    return absl::Status(status.code(),
                        absl::StrCat("making ", status.message(), "; ", kWayOut.substr(3)));
  }
  return OpenRuntimeDir(path);
}

std::string ShmSocketName(absl::string_view name) { return absl::StrCat("shm-", name, ".sock"); }

}  // namespace mi7::transport
