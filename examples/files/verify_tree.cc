#include "examples/files/verify_tree.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "base/deadline.h"
#include "examples/files/for_each.h"
#include "examples/files/paths.h"
#include "examples/files/sha256.h"
#include "examples/files/tree.h"

namespace files {
namespace {

constexpr mode_t kOwnersBits = 0700;
constexpr double kMegabyte = 1e6;

// Says how far one of the passes over the files is. Thread-safe.
class Progress {
 public:
  Progress(std::string name, const Tree& tree) : name_(std::move(name)), tree_(tree) {}

  void AddFile() {
    absl::MutexLock lock(&mutex_);
    ++files_;
  }

  void AddBytes(uint64_t bytes) {
    absl::MutexLock lock(&mutex_);
    bytes_ += bytes;
    const int64_t now_ns = mi7::MonotonicNanos();
    if (now_ns < next_line_ns_) return;
    next_line_ns_ = now_ns + kBetweenLinesNs;
    Print("\n");
  }

  // The last line, with `how` at its end.
  void Done(absl::string_view how) {
    absl::MutexLock lock(&mutex_);
    const double seconds = Seconds();
    Print(absl::StrFormat(" in %.2f s, %.1f MB/s%s\n", seconds,
                          static_cast<double>(bytes_) / kMegabyte / std::max(seconds, 1e-9), how));
  }

 private:
  static constexpr int64_t kBetweenLinesNs = 1'000'000'000;

  double Seconds() const { return static_cast<double>(mi7::MonotonicNanos() - start_ns_) / 1e9; }
  void Print(absl::string_view end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    absl::PrintF("%-9s %d of %d files, %.1f MB%s", name_, files_, tree_.files.size(),
                 static_cast<double>(bytes_) / kMegabyte, end);
    std::fflush(stdout);
  }

  const std::string name_;
  const Tree& tree_;
  const int64_t start_ns_ = mi7::MonotonicNanos();
  absl::Mutex mutex_;
  size_t files_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t next_line_ns_ ABSL_GUARDED_BY(mutex_) = start_ns_ + kBetweenLinesNs;
};

// One run: where the original and its two copies are, and the passes.
class Verification {
 public:
  Verification(const FileStoreStub& store, std::string original, const VerifyOptions& options)
      : store_(store), options_(options), original_(std::move(original)) {}

  absl::Status Run();

 private:
  absl::Status CheckInterrupted() const {
    if (options_.interrupted == nullptr || !*options_.interrupted) return absl::OkStatus();
    return absl::CancelledError("interrupted");
  }
  // For one pass: counts what arrives, and ends early when interrupted.
  TransferOptions TransferFor(Progress& progress) const {
    TransferOptions transfer = options_.transfer;
    transfer.on_range = [this, &progress](uint64_t bytes) {
      progress.AddBytes(bytes);
      return CheckInterrupted();
    };
    return transfer;
  }
  absl::Status CopyThereAndBack();
  absl::Status CreateRemoteDirectories();
  absl::Status UploadFiles();
  absl::Status DownloadFiles();
  absl::Status Compare();
  absl::Status CleanUp();

  const FileStoreStub& store_;
  const VerifyOptions& options_;
  const std::string original_;
  Tree tree_;             // of the original
  std::string remote_;    // the copy on the server; empty: not made yet
  std::string returned_;  // what came back; empty: not made yet
};

absl::Status Verification::Run() {
  absl::StatusOr<Tree> tree = ScanLocal(original_);
  if (!tree.ok()) return tree.status();
  tree_ = *std::move(tree);
  absl::PrintF("tree      %s: %d files, %d directories, %.1f MB; left out: %d links, %d others\n",
               original_, tree_.files.size(), tree_.directories.size(),
               static_cast<double>(tree_.bytes) / kMegabyte, tree_.links, tree_.others);
  std::fflush(stdout);

  absl::Status status = CopyThereAndBack();
  if (status.ok()) status = Compare();
  absl::Status cleaned = CleanUp();
  if (status.ok()) return cleaned;
  if (!cleaned.ok()) absl::FPrintF(stderr, "client: clean-up: %s\n", cleaned.message());
  return status;
}

absl::Status Verification::CopyThereAndBack() {
  absl::Status status = CreateRemoteDirectories();
  if (status.ok()) status = UploadFiles();
  if (status.ok()) status = DownloadFiles();
  return status;
}

absl::Status Verification::CreateRemoteDirectories() {
  const std::string name =
      absl::StrCat("verify-tree.", ::getpid(), ".", absl::Hex(mi7::MonotonicNanos()));
  auto request = store_.MakeDirectory(options_.transfer.Call());
  request->setPath(name);
  request->setMode(kOwnersBits);
  if (auto made = request.Send().Wait(); !made.ok()) return made.status();
  remote_ = name;
  std::vector<Tree::Item> directories = tree_.directories;
  for (Tree::Item& directory : directories) directory.mode |= kOwnersBits;
  return MakeRemoteDirectories(store_, remote_, directories, options_.transfer);
}

absl::Status Verification::UploadFiles() {
  Progress progress("upload", tree_);
  const TransferOptions transfer = TransferFor(progress);
  absl::Status status = ForEach(tree_.files.size(), options_.parallel, [&](size_t i) {
    if (absl::Status go_on = CheckInterrupted(); !go_on.ok()) return go_on;
    const std::string& path = tree_.files[i].path;
    absl::StatusOr<uint64_t> bytes = Upload(store_, absl::StrCat(original_, "/", path),
                                            absl::StrCat(remote_, "/", path), transfer);
    if (bytes.ok()) progress.AddFile();
    return bytes.status();
  });
  if (status.ok()) progress.Done(absl::StrCat(" over ", store_.channel()->transport()));
  return status;
}

// Downloads what the server says is there, not what was uploaded: more would be an error as well.
absl::Status Verification::DownloadFiles() {
  std::error_code error;
  const std::filesystem::path temporary = std::filesystem::temp_directory_path(error);
  if (error) {
    return absl::FailedPreconditionError(
        absl::StrCat("no directory for temporary files: ", error.message(), "; set TMPDIR to one"));
  }
  std::string name = temporary / "mi7-verify-tree.XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return ErrnoStatus(errno, "make the directory", name);
  returned_ = name;

  absl::StatusOr<Tree> remote = ScanRemote(store_, remote_, options_.transfer);
  if (!remote.ok()) return remote.status();
  for (const Tree::Item& directory : remote->directories) {
    const std::string path = absl::StrCat(returned_, "/", directory.path);
    if (::mkdir(path.c_str(), directory.mode | kOwnersBits) != 0) {
      return ErrnoStatus(errno, "make the directory", path);
    }
  }
  Progress progress("download", *remote);
  const TransferOptions transfer = TransferFor(progress);
  absl::Status status = ForEach(remote->files.size(), options_.parallel, [&](size_t i) {
    if (absl::Status go_on = CheckInterrupted(); !go_on.ok()) return go_on;
    const std::string& path = remote->files[i].path;
    absl::StatusOr<uint64_t> bytes = Download(store_, absl::StrCat(remote_, "/", path),
                                              absl::StrCat(returned_, "/", path), transfer);
    if (bytes.ok()) progress.AddFile();
    return bytes.status();
  });
  if (status.ok()) progress.Done(absl::StrCat(" over ", store_.channel()->transport()));
  return status;
}

// Reads the original again: this trusts nothing that the copying did.
absl::Status Verification::Compare() {
  absl::StatusOr<Tree> returned = ScanLocal(returned_);
  if (!returned.ok()) return returned.status();

  absl::Mutex mutex;
  std::vector<std::string> mismatches;  // guarded by mutex
  const auto mismatch = [&](const std::string& path, absl::string_view what) {
    absl::MutexLock lock(&mutex);
    mismatches.push_back(absl::StrCat(path, ": ", what));
  };
  std::map<std::string, const Tree::Item*> left;  // came back, and was not compared yet
  for (const Tree::Item& file : returned->files) left.emplace(file.path, &file);
  for (const Tree::Item& directory : returned->directories) left.emplace(directory.path, nullptr);

  for (const Tree::Item& directory : tree_.directories) {
    const auto found = left.find(directory.path);
    if (found == left.end() || found->second != nullptr) {
      mismatch(directory.path, "the directory did not come back");
    } else {
      left.erase(found);
    }
  }
  std::vector<std::pair<const Tree::Item*, const Tree::Item*>> pairs;
  for (const Tree::Item& file : tree_.files) {
    const auto found = left.find(file.path);
    if (found == left.end() || found->second == nullptr) {
      mismatch(file.path, "the file did not come back");
    } else {
      pairs.emplace_back(&file, found->second);
      left.erase(found);
    }
  }
  for (const auto& [path, item] : left) mismatch(path, "came back and was never sent");

  Progress progress("verify", tree_);
  absl::Status status = ForEach(pairs.size(), options_.parallel, [&](size_t i) {
    if (absl::Status go_on = CheckInterrupted(); !go_on.ok()) return go_on;
    const auto& [sent, came] = pairs[i];
    absl::StatusOr<Sha256> expected = Sha256OfFile(absl::StrCat(original_, "/", sent->path));
    absl::StatusOr<Sha256> actual = Sha256OfFile(absl::StrCat(returned_, "/", came->path));
    if (!expected.ok()) {
      mismatch(sent->path, expected.status().message());
    } else if (!actual.ok()) {
      return actual.status();
    } else if (*expected != *actual) {
      mismatch(sent->path, sent->size != came->size
                               ? absl::StrCat("has ", came->size, " bytes instead of ", sent->size)
                               : "SHA-256 differs");
    } else if (sent->mode != came->mode) {
      mismatch(sent->path, absl::StrFormat("has mode 0%o instead of 0%o", came->mode, sent->mode));
    }
    progress.AddFile();
    progress.AddBytes(came->size);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  progress.Done(absl::StrCat(", mismatches ", mismatches.size()));
  if (mismatches.empty()) return absl::OkStatus();

  std::sort(mismatches.begin(), mismatches.end());
  for (const std::string& text : mismatches) absl::PrintF("mismatch  %s\n", text);
  return absl::DataLossError(absl::StrCat(
      mismatches.size(), " of ", tree_.files.size() + tree_.directories.size(),
      " files and directories came back different, unless somebody changed them meanwhile"));
}

absl::Status Verification::CleanUp() {
  absl::Status status;
  if (!returned_.empty()) {
    std::error_code error;
    std::filesystem::remove_all(returned_, error);
    if (error) {
      status = absl::InternalError(absl::StrCat("cannot remove ", Quoted(returned_), ": ",
                                                error.message(), "; remove it by hand"));
    }
  }
  if (!remote_.empty()) {
    absl::Status removed = RemoveRemote(store_, remote_, options_.transfer);
    if (!removed.ok()) {
      status.Update(absl::Status(
          removed.code(),
          absl::StrCat("the copy ", Quoted(remote_), " stays on the server: ", removed.message())));
    }
  }
  return status;
}

}  // namespace

absl::Status VerifyTree(const FileStoreStub& store, const std::string& directory,
                        const VerifyOptions& options) {
  return Verification(store, directory, options).Run();
}

}  // namespace files
