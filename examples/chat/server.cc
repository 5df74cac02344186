// A chat room as a process: open until it gets SIGINT or SIGTERM.

#include "rpc/server.h"

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
#include "examples/chat/room.h"
#include "examples/stop_signals/stop_signals.h"
#include "transport/event_loop.h"

ABSL_FLAG(std::vector<std::string>, listen, {"mi7://127.0.0.1:4714"},
          "Endpoints to listen on, separated by commas. mi7://HOST:PORT; port 0 picks a free one.");
ABSL_FLAG(int, grace_s, 10, "Seconds that calls have to end when the server is told to stop.");

namespace {

absl::Status Run(const examples::StopSignals& stop) {
  absl::StatusOr<std::unique_ptr<mi7::transport::EventLoop>> loop =
      mi7::transport::EventLoop::Create({.name = "room"});
  if (!loop.ok()) return loop.status();
  chat::RoomImpl room(loop->get());

  mi7::ServerBuilder builder;
  builder.AddService(&room);
  for (const std::string& endpoint : absl::GetFlag(FLAGS_listen)) builder.Listen(endpoint);
  absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
  if (!server.ok()) return server.status();

  for (const std::string& endpoint : (*server)->endpoints()) {
    absl::PrintF("listening on %s\n", endpoint);
  }
  std::fflush(stdout);  // whoever started us may be waiting for these lines

  stop.Wait();
  absl::PrintF("stopping\n");
  // A conversation has no end of its own, for which Shutdown would wait.
  room.Close();
  return (*server)->Shutdown(mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_grace_s))));
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Opens a chat room until SIGINT or SIGTERM.\n"
      "  server --listen=mi7://127.0.0.1:4714");
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
