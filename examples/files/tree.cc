#include "examples/files/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "examples/files/paths.h"
#include "examples/files/pipeline.h"

namespace files {
namespace {

constexpr mode_t kPermissionBits = 0777;
// Calls without content that are on their way at a time.
constexpr size_t kSmallCallsWindow = 32;

struct DirCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

std::string Join(const std::string& directory, absl::string_view name) {
  return directory.empty() ? std::string(name) : absl::StrCat(directory, "/", name);
}

// One directory: its files go to the tree's, its directories to the end of the tree's.
absl::Status ScanLocalDirectory(const std::string& top, const std::string& relative, Tree& tree) {
  const std::string path = relative.empty() ? top : absl::StrCat(top, "/", relative);
  const std::unique_ptr<DIR, DirCloser> directory(::opendir(path.c_str()));
  if (!directory) return ErrnoStatus(errno, "list", path);
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());
    if (entry == nullptr) break;
    const absl::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat info;
    if (::fstatat(::dirfd(directory.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;  // removed since
      return ErrnoStatus(errno, "look at", Join(path, name));
    }
    const mode_t mode = info.st_mode & kPermissionBits;
    if (S_ISDIR(info.st_mode)) {
      tree.directories.push_back({Join(relative, name), mode, 0});
    } else if (S_ISREG(info.st_mode)) {
      const uint64_t size = static_cast<uint64_t>(info.st_size);
      tree.files.push_back({Join(relative, name), mode, size});
      tree.bytes += size;
    } else {
      ++(S_ISLNK(info.st_mode) ? tree.links : tree.others);
    }
  }
  return errno == 0 ? absl::OkStatus() : ErrnoStatus(errno, "list", path);
}

absl::Status ScanRemoteDirectory(const FileStoreStub& store, const std::string& top,
                                 const std::string& relative, const TransferOptions& options,
                                 Tree& tree) {
  const std::string path = relative.empty() ? top : absl::StrCat(top, "/", relative);
  return ListRemote(store, path, options, [&](EntryPage entries) {
    for (Entry::Reader entry : entries) {
      const absl::string_view name(entry.getName().begin(), entry.getName().size());
      const std::string child = Join(relative, name);
      if (name.find('/') != name.npos || name == "." || !CheckPath(child).ok()) {
        return absl::InternalError(absl::StrCat("the server lists an impossible name in ",
                                                Quoted(path), ": ", Quoted(name)));
      }
      const FileInfo::Reader info = entry.getInfo();
      const mode_t mode = info.getMode() & kPermissionBits;
      switch (info.getKind()) {
        case Kind::DIRECTORY:
          tree.directories.push_back({child, mode, 0});
          break;
        case Kind::FILE:
          tree.files.push_back({child, mode, info.getSize()});
          tree.bytes += info.getSize();
          break;
        case Kind::SYMLINK:
          ++tree.links;
          break;
        default:
          ++tree.others;
          break;
      }
    }
    return absl::OkStatus();
  });
}

// `scan(path, tree)` for the top, and for every directory that turns up.
template <typename Scan>
absl::StatusOr<Tree> ScanAll(Scan scan) {
  Tree tree;
  if (absl::Status status = scan(std::string(), tree); !status.ok()) return status;
  for (size_t i = 0; i < tree.directories.size(); ++i) {
    const std::string path = tree.directories[i].path;  // a copy: the vector grows
    if (absl::Status status = scan(path, tree); !status.ok()) return status;
  }
  return tree;
}

// Removes items[begin] to items[end - 1], none of which is in another.
absl::Status Remove(const FileStoreStub& store, const std::string& top,
                    const std::vector<Tree::Item>& items, size_t begin, size_t end,
                    const TransferOptions& options) {
  using Call = mi7::PendingCall<FileStore::RemoveResults>;
  const auto send = [&](size_t i) -> absl::StatusOr<Call> {
    auto request = store.Remove(options.Call());
    request->setPath(absl::StrCat(top, "/", items[begin + i].path));
    return request.Send();
  };
  const auto receive = [](size_t, FileStore::RemoveResults::Reader) { return absl::OkStatus(); };
  return Pipeline(end - begin, kSmallCallsWindow, send, receive);
}

size_t Depth(const Tree::Item& item) {
  return static_cast<size_t>(std::count(item.path.begin(), item.path.end(), '/'));
}

// Where each run of directories that are equally deep begins, and where the last one ends.
std::vector<size_t> Levels(const std::vector<Tree::Item>& directories) {
  std::vector<size_t> levels = {0};
  for (size_t i = 1; i < directories.size(); ++i) {
    if (Depth(directories[i]) != Depth(directories[i - 1])) levels.push_back(i);
  }
  if (!directories.empty()) levels.push_back(directories.size());
  return levels;
}

}  // namespace

absl::Status ListRemote(const FileStoreStub& store, const std::string& directory,
                        const TransferOptions& options,
                        absl::FunctionRef<absl::Status(EntryPage)> page) {
  std::string after;
  for (;;) {
    auto request = store.List(options.Call());
    request->setPath(directory);
    request->setAfter(after);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    const EntryPage entries = response->getEntries();
    if (absl::Status status = page(entries); !status.ok()) return status;
    if (!response->getMore() || entries.size() == 0) return absl::OkStatus();
    const capnp::Text::Reader last = entries[entries.size() - 1].getName();
    const std::string next(last.begin(), last.size());
    if (next <= after) {
      return absl::InternalError(
          absl::StrCat("the server lists ", Quoted(directory), " out of order"));
    }
    after = next;
  }
}

absl::StatusOr<Tree> ScanLocal(const std::string& directory) {
  return ScanAll([&](const std::string& relative, Tree& tree) {
    return ScanLocalDirectory(directory, relative, tree);
  });
}

absl::StatusOr<Tree> ScanRemote(const FileStoreStub& store, const std::string& directory,
                                const TransferOptions& options) {
  return ScanAll([&](const std::string& relative, Tree& tree) {
    return ScanRemoteDirectory(store, directory, relative, options, tree);
  });
}

absl::Status MakeRemoteDirectories(const FileStoreStub& store, const std::string& top,
                                   const std::vector<Tree::Item>& directories,
                                   const TransferOptions& options) {
  using Call = mi7::PendingCall<FileStore::MakeDirectoryResults>;
  const std::vector<size_t> levels = Levels(directories);
  for (size_t level = 0; level + 1 < levels.size(); ++level) {
    const size_t begin = levels[level];
    const auto send = [&](size_t i) -> absl::StatusOr<Call> {
      auto request = store.MakeDirectory(options.Call());
      request->setPath(absl::StrCat(top, "/", directories[begin + i].path));
      request->setMode(static_cast<uint16_t>(directories[begin + i].mode));
      return request.Send();
    };
    const auto receive = [](size_t, FileStore::MakeDirectoryResults::Reader) {
      return absl::OkStatus();
    };
    absl::Status made = Pipeline(levels[level + 1] - begin, kSmallCallsWindow, send, receive);
    if (!made.ok()) return made;
  }
  return absl::OkStatus();
}

absl::Status RemoveRemote(const FileStoreStub& store, const std::string& directory,
                          const TransferOptions& options) {
  absl::StatusOr<Tree> tree = ScanRemote(store, directory, options);
  if (!tree.ok()) return tree.status();
  absl::Status status = Remove(store, directory, tree->files, 0, tree->files.size(), options);
  const std::vector<size_t> levels = Levels(tree->directories);
  for (size_t level = levels.size() - 1; level > 0 && status.ok(); --level) {  // innermost first
    status = Remove(store, directory, tree->directories, levels[level - 1], levels[level], options);
  }
  if (!status.ok()) return status;
  auto request = store.Remove(options.Call());
  request->setPath(directory);
  return request.Send().Wait().status();
}

}  // namespace files
