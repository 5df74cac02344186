#include "bench/harness/conversation.h"

#include "absl/strings/str_cat.h"

namespace mi7::bench {

absl::StatusOr<std::string> Listen(ChildProcess& process, absl::Duration timeout) {
  absl::StatusOr<std::string> line = process.ReadLine(Deadline::After(timeout));
  constexpr char kError[] = "error ";
  if (line.ok() && line->rfind(kError, 0) == 0) {
    return absl::UnknownError(line->substr(sizeof(kError) - 1));
  }
  return line;
}

absl::Status Expect(ChildProcess& process, const std::string& expected, absl::Duration timeout) {
  const absl::StatusOr<std::string> line = Listen(process, timeout);
  if (!line.ok()) return line.status();
  if (*line == expected) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("it said '", *line, "' instead of ", expected));
}

absl::StatusOr<std::string> ListenForAddress(ChildProcess& server) {
  const absl::StatusOr<std::string> line = Listen(server, kStartTimeout);
  if (!line.ok()) return line.status();
  constexpr char kReady[] = "ready ";
  if (line->rfind(kReady, 0) == 0) return line->substr(sizeof(kReady) - 1);
  return absl::InternalError(absl::StrCat("the server said '", *line, "' instead of ready"));
}

absl::StatusOr<MemoryUse> AskMemory(ChildProcess& process, const std::string& command) {
  if (absl::Status sent = process.WriteLine(command); !sent.ok()) return sent;
  const absl::StatusOr<std::string> line = Listen(process, kIdleTimeout);
  if (!line.ok()) return line.status();
  return MemoryUse::Decode(*line);
}

}  // namespace mi7::bench
