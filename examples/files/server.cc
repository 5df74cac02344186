// Serves the files below a directory until it gets SIGINT or SIGTERM.

#include "rpc/server.h"

#include <signal.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "examples/files/file_service.h"

ABSL_FLAG(std::string, root, "", "The directory to serve. Nothing outside of it can be reached.");
ABSL_FLAG(std::vector<std::string>, listen, {"mi7://127.0.0.1:4712"},
          "Endpoints to listen on, separated by commas. mi7://HOST:PORT; port 0 picks a free one. "
          "Whoever reaches an endpoint can use all files: choose none that strangers reach.");
ABSL_FLAG(bool, read_only, false, "Refuse to change anything.");
ABSL_FLAG(int, threads, 0, "Threads that use the file system; 0: two for every CPU.");
ABSL_FLAG(int, grace_s, 10, "Seconds that calls have to end when the server is told to stop.");

namespace {

absl::Status Run(const sigset_t& stop_signals) {
  if (absl::GetFlag(FLAGS_root).empty()) {
    return absl::InvalidArgumentError("--root is missing: name the directory to serve");
  }
  absl::StatusOr<std::unique_ptr<files::FileService>> service = files::FileService::Create(
      absl::GetFlag(FLAGS_root),
      {.read_only = absl::GetFlag(FLAGS_read_only), .threads = absl::GetFlag(FLAGS_threads)});
  if (!service.ok()) return service.status();

  mi7::ServerBuilder builder;
  builder.AddService(service->get());
  for (const std::string& endpoint : absl::GetFlag(FLAGS_listen)) builder.Listen(endpoint);
  absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
  if (!server.ok()) return server.status();

  for (const std::string& endpoint : (*server)->endpoints()) {
    absl::PrintF("listening on %s\n", endpoint);
  }
  std::fflush(stdout);  // whoever started us may be waiting for these lines

  int signal = 0;
  sigwait(&stop_signals, &signal);
  absl::PrintF("stopping\n");
  return (*server)->Shutdown(mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_grace_s))));
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Serves the files below a directory until SIGINT or SIGTERM.\n"
      "  server --root=DIRECTORY --listen=mi7://127.0.0.1:4712 [--read_only]");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() > 1) {
    absl::FPrintF(stderr, "server: unexpected argument '%s'; see server --help\n", arguments[1]);
    return 2;
  }

  // Blocked before there is a second thread, so that all inherit it and only sigwait gets them.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);

  if (absl::Status status = Run(stop_signals); !status.ok()) {
    absl::FPrintF(stderr, "server: %s\n",
                  status.ToString(absl::StatusToStringMode::kWithNoExtraData));
    return 1;
  }
  return 0;
}
