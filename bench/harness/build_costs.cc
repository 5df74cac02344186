#include "bench/harness/build_costs.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"

namespace mi7::bench {

absl::StatusOr<double> LoadedBytes(const std::string& program) {
  std::ifstream file(program, std::ios::binary);
  Elf64_Ehdr header = {};
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  if (!file || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return absl::NotFoundError(absl::StrCat(program, " is no 64-bit program"));
  }
  double bytes = 0;
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment = {};
    file.seekg(static_cast<std::streamoff>(header.e_phoff + i * sizeof(segment)));
    file.read(reinterpret_cast<char*>(&segment), sizeof(segment));
    if (!file) return absl::DataLossError(absl::StrCat(program, " ends early"));
    if (segment.p_type == PT_LOAD) bytes += static_cast<double>(segment.p_filesz);
  }
  return bytes;
}

absl::StatusOr<double> CompileNanos(const std::string& roots, const std::string& name) {
  const size_t colon = roots.find(':');
  if (colon == std::string::npos) {
    return absl::FailedPreconditionError("compile times need tools/bench");
  }
  const std::string source = roots.substr(0, colon);
  const std::string generated = roots.substr(colon + 1);
  const std::string path = absl::StrCat(generated, "/bench/subjects/", name);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return absl::NotFoundError(absl::StrCat("not generated: ", name, " (is its peer installed?)"));
  }
  std::vector<std::string> words = {"g++",         "-std=c++20",     "-O2", "-DNDEBUG", "-w",
                                    "-I" + source, "-I" + generated, "-c",  "-o",       "/dev/null",
                                    path};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const int null = ::open("/dev/null", O_RDWR);
    ::dup2(null, STDOUT_FILENO);
    ::dup2(null, STDERR_FILENO);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  rusage usage = {};
  while (pid > 0 && ::wait4(pid, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  if (pid < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return absl::UnavailableError(absl::StrCat("g++ cannot compile ", name));
  }
  const auto nanos = [](const timeval& time) {
    return 1e9 * static_cast<double>(time.tv_sec) + 1e3 * static_cast<double>(time.tv_usec);
  };
  return nanos(usage.ru_utime) + nanos(usage.ru_stime);
}

}  // namespace mi7::bench
