// A key-value store as a process: serves until it gets SIGINT or SIGTERM.

#include "rpc/server.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "examples/kv/database.h"
#include "examples/kv/store.h"
#include "examples/stop_signals/stop_signals.h"

ABSL_FLAG(std::string, database, "", "The file that keeps the store; made when there is none.");
ABSL_FLAG(std::vector<std::string>, listen, {"mi7://127.0.0.1:4715"},
          "Endpoints to listen on, separated by commas. mi7://HOST:PORT; port 0 picks a free one. "
          "Whoever reaches an endpoint can change the store.");
ABSL_FLAG(int, grace_s, 10, "Seconds that calls have to end when the server is told to stop.");

namespace {

absl::Status Run(const examples::StopSignals& stop) {
  if (absl::GetFlag(FLAGS_database).empty()) {
    return absl::InvalidArgumentError("--database is missing: name the file that keeps the store");
  }
  absl::StatusOr<std::unique_ptr<kv::Database>> database =
      kv::Database::Open(absl::GetFlag(FLAGS_database));
  if (!database.ok()) return database.status();
  kv::StoreImpl store(*std::move(database));

  mi7::ServerBuilder builder;
  builder.AddService(&store);
  for (const std::string& endpoint : absl::GetFlag(FLAGS_listen)) builder.Listen(endpoint);
  absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
  if (!server.ok()) return server.status();

  for (const std::string& endpoint : (*server)->endpoints()) {
    absl::PrintF("listening on %s\n", endpoint);
  }
  std::fflush(stdout);  // whoever started us may be waiting for these lines

  stop.Wait();
  absl::PrintF("stopping\n");
  store.Stop();
  return (*server)->Shutdown(mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_grace_s))));
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Serves a key-value store until SIGINT or SIGTERM.\n"
      "  server --database=/var/tmp/store.db --listen=mi7://127.0.0.1:4715");
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
