// Serves log files until it gets SIGINT or SIGTERM.

#include "rpc/server.h"

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "examples/log_tail/log_tail_impl.h"
#include "examples/stop_signals/stop_signals.h"

ABSL_FLAG(std::vector<std::string>, logs, {},
          "The logs to serve, NAME=PATH, separated by commas. Nothing else can be read.");
ABSL_FLAG(std::vector<std::string>, listen, {"mi7://127.0.0.1:4713"},
          "Endpoints to listen on, separated by commas. mi7://HOST:PORT; port 0 picks a free one. "
          "Whoever reaches an endpoint can read the logs.");
ABSL_FLAG(int, grace_s, 10, "Seconds that calls have to end when the server is told to stop.");

namespace {

absl::StatusOr<std::map<std::string, std::string>> Logs() {
  std::map<std::string, std::string> logs;
  for (const std::string& text : absl::GetFlag(FLAGS_logs)) {
    const std::pair<std::string, std::string> log = absl::StrSplit(text, absl::MaxSplits('=', 1));
    if (log.first.empty() || log.second.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--logs: '", text, "' is not NAME=PATH, as in app=/var/log/app.log"));
    }
    if (!logs.insert(log).second) {
      return absl::InvalidArgumentError(absl::StrCat("--logs: two logs have the name ", log.first));
    }
  }
  if (logs.empty()) {
    return absl::InvalidArgumentError(
        "--logs is missing: name the logs to serve, as in --logs=app=/var/log/app.log");
  }
  return logs;
}

absl::Status Run(const examples::StopSignals& stop) {
  absl::StatusOr<std::map<std::string, std::string>> logs = Logs();
  if (!logs.ok()) return logs.status();
  log_tail::LogTailImpl service(*std::move(logs));

  mi7::ServerBuilder builder;
  builder.AddService(&service);
  for (const std::string& endpoint : absl::GetFlag(FLAGS_listen)) builder.Listen(endpoint);
  absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
  if (!server.ok()) return server.status();

  for (const std::string& endpoint : (*server)->endpoints()) {
    absl::PrintF("listening on %s\n", endpoint);
  }
  std::fflush(stdout);  // whoever started us may be waiting for these lines

  stop.Wait();
  absl::PrintF("stopping\n");
  // Streams that follow a file have no end of their own, for which Shutdown would wait.
  service.Stop();
  return (*server)->Shutdown(mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_grace_s))));
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Serves log files, as they grow, until SIGINT or SIGTERM.\n"
      "  server --logs=app=/var/log/app.log,web=/var/log/web.log --listen=mi7://127.0.0.1:4713");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() > 1) {
    absl::FPrintF(stderr, "server: unexpected argument '%s'; see server --help\n", arguments[1]);
    return 2;
  }
  const examples::StopSignals stop;
  if (absl::Status status = Run(stop); !status.ok()) {
    absl::FPrintF(stderr, "server: %s\n",
                  status.ToString(absl::StatusToStringMode::kWithNoExtraData));
    return 1;
  }
  return 0;
}
