#pragma once

// The ledger: a file of numbers to which several processes append, each with one atomic write.

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "transport/unique_fd.h"

namespace mi7::restart {

// Thread-safe.
class LedgerFile {
 public:
  explicit LedgerFile(const std::string& path)
      : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) {
    MI7_CHECK(static_cast<bool>(fd_), "the ledger can be opened");
  }
  void Append(uint64_t number) {
    MI7_CHECK(::write(fd_.get(), &number, sizeof(number)) == sizeof(number),
              "a number is written as a whole");
  }
  std::vector<uint64_t> ReadAll() const {
    std::vector<uint64_t> numbers;
    uint64_t number;
    for (off_t at = 0; ::pread(fd_.get(), &number, sizeof(number), at) == sizeof(number);
         at += sizeof(number)) {
      numbers.push_back(number);
    }
    return numbers;
  }

 private:
  const transport::UniqueFd fd_;
};

}  // namespace mi7::restart
