#pragma once

// For tests: pipes of their own in a directory that goes with the test.

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace mi7::slot_pipe_internal {

// Sets MI7_RUNTIME_DIR to an empty directory, and removes that when destroyed.
class TestDirectory {
 public:
  TestDirectory() {
    const char* folder = ::getenv("TEST_TMPDIR");
    path_ = std::string(folder != nullptr ? folder : "/tmp") + "/pipes_XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) ::abort();
    ::setenv("MI7_RUNTIME_DIR", path_.c_str(), 1);
  }
  ~TestDirectory() { std::filesystem::remove_all(path_); }

  // Where the file of a pipe is.
  std::string File(absl::string_view name) const { return path_ + "/pipes/" + std::string(name); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// For EXPECT_TRUE(Is(status, code, text)): the code, and a text that a person needs.
inline bool Is(const absl::Status& status, absl::StatusCode code, absl::string_view text) {
  return status.code() == code && absl::StrContains(status.message(), text);
}

}  // namespace mi7::slot_pipe_internal
