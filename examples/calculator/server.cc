// A calculator as a process: serves until it gets SIGINT or SIGTERM.

#include "rpc/server.h"

#include <signal.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "examples/calculator/calculator_impl.h"
#include "rpc/channel.h"

ABSL_FLAG(std::vector<std::string>, listen, {"mi7://127.0.0.1:4711"},
          "Endpoints to listen on, separated by commas. mi7://HOST:PORT (shared memory and TCP), "
          "shm:NAME, unix:/PATH, tcp:HOST:PORT; port 0 picks a free one, and host * means every "
          "address of this machine.");
ABSL_FLAG(int, grace_s, 10, "Seconds that calls have to end when the server is told to stop.");

namespace {

// Where this server calls itself, on behalf of Average.
constexpr char kSelf[] = "inproc:calculator-self";

absl::Status Run(const sigset_t& stop_signals) {
  absl::StatusOr<std::shared_ptr<mi7::Channel>> self = mi7::Channel::Create(kSelf);
  if (!self.ok()) return self.status();
  calculator::CalculatorImpl calculator{calculator::CalculatorStub(*self)};

  mi7::ServerBuilder builder;
  builder.AddService(&calculator);
  for (const std::string& endpoint : absl::GetFlag(FLAGS_listen)) builder.Listen(endpoint);
  builder.Listen(kSelf);
  absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
  if (!server.ok()) return server.status();

  for (const std::string& endpoint : (*server)->endpoints()) {
    if (endpoint != kSelf) absl::PrintF("listening on %s\n", endpoint);
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
      "Serves the calculator until SIGINT or SIGTERM.\n"
      "  server --listen=mi7://127.0.0.1:4711,unix:/tmp/calculator.sock");
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
