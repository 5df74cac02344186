#pragma once

// For tests: pipes of their own in a directory that goes with the test.

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace mi7::slot_pipe_internal {

// Sets MI7_RUNTIME_DIR to an empty directory, and removes that when destroyed.
class TestDirectory {
 public:
  // Below `parent`; null: where tests have their files.
  explicit TestDirectory(const char* parent = nullptr) {
    if (parent == nullptr) parent = ::getenv("TEST_TMPDIR");
    path_ = std::string(parent != nullptr ? parent : "/tmp") + "/pipes_XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) ::abort();
    ::setenv("MI7_RUNTIME_DIR", path_.c_str(), 1);
  }
  ~TestDirectory() { std::filesystem::remove_all(path_); }

  // Where the file of a pipe is.
  std::string File(absl::string_view name) const { return path_ + "/pipes/" + std::string(name); }
  const std::string& path() const { return path_; }
  // The files there, pipes or not, sorted.
  std::vector<std::string> Files() const {
    std::vector<std::string> files;
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator(path_ + "/pipes", none)) {
      files.push_back(entry.path().filename());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

 private:
  std::string path_;
};

// What this process has of the system: its descriptors, and its mappings of memory that it shares
// with others, as a pipe's. (Those of its own come and go with the heap.)
struct Possessions {
  size_t descriptors = 0;
  size_t shared_mappings = 0;

  static Possessions Count() {
    Possessions now;
    // One more than there are, each time: the look's own.
    const std::filesystem::directory_iterator descriptors("/proc/self/fd");
    now.descriptors = static_cast<size_t>(std::distance(begin(descriptors), end(descriptors)));
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      const size_t permissions = line.find(' ');  // "from-to rw-s ..."
      if (permissions != std::string::npos && line[permissions + 4] == 's') ++now.shared_mappings;
    }
    return now;
  }
  friend bool operator==(const Possessions&, const Possessions&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Possessions& possessions) {
    return out << possessions.descriptors << " descriptors, " << possessions.shared_mappings
               << " shared mappings";
  }
};

// A process that does `work`, which says whether it came to its end, and then waits to be killed.
class Doomed {
 public:
  template <typename Work>
  explicit Doomed(Work work) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) ::abort();
    process_ = ::fork();
    if (process_ == 0) {
      const char done = work() ? 1 : 0;
      if (::write(ends[1], &done, 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(ends[1]);
    char done = 0;
    ready_ = ::read(ends[0], &done, 1) == 1 && done == 1;
    ::close(ends[0]);
  }
  ~Doomed() { Kill(); }
  Doomed(const Doomed&) = delete;
  Doomed& operator=(const Doomed&) = delete;

  bool ready() const { return ready_; }
  void Kill() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    process_ = -1;
  }

 private:
  pid_t process_ = -1;
  bool ready_ = false;
};

// For EXPECT_TRUE(Is(status, code, text)): the code, and a text that a person needs.
inline bool Is(const absl::Status& status, absl::StatusCode code, absl::string_view text) {
  return status.code() == code && absl::StrContains(status.message(), text);
}

}  // namespace mi7::slot_pipe_internal
