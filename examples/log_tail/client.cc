// Shows the logs of a server, as tail does those of this machine.

#include <errno.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "examples/log_tail/log_tail.mi7.h"
#include "examples/stop_signals/connect.h"
#include "examples/stop_signals/stop_signals.h"
#include "rpc/channel.h"

ABSL_FLAG(std::string, server, "mi7://127.0.0.1:4713", "The log server's endpoint.");
ABSL_FLAG(uint32_t, lines, 10, "Lines to begin with: the last ones that are there.");
ABSL_FLAG(bool, follow, false, "Go on with what is appended, until SIGINT (Ctrl-C) or SIGTERM.");
ABSL_FLAG(int, timeout_s, 30, "Seconds to wait for the connection, and for the list of logs.");

namespace {

using log_tail::LogTailStub;
using log_tail::Piece;

constexpr char kUsage[] =
    "Shows the logs of a log server.\n"
    "  client [--server=ENDPOINT] list\n"
    "  client [--server=ENDPOINT] [--lines=10] [--follow] tail NAME";

mi7::Deadline InTime() {
  return mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_timeout_s)));
}

// Output that got nowhere is a failure.
absl::Status Flush() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return absl::OkStatus();
  return absl::DataLossError("cannot write to the standard output");
}

absl::Status Print(capnp::Data::Reader data) {
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t wrote = ::write(STDOUT_FILENO, data.begin() + done, data.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return absl::ErrnoToStatus(errno, "cannot write to the standard output");
    done += static_cast<size_t>(wrote);
  }
  return absl::OkStatus();
}

absl::Status List(const LogTailStub& stub) {
  auto response = stub.List({.deadline = InTime()}).Send().Wait();
  if (!response.ok()) return response.status();
  for (log_tail::Log::Reader log : response->getLogs()) {
    absl::PrintF("%12d %s\n", log.getSize(), log.getName().cStr());
  }
  return absl::OkStatus();
}

absl::Status Tail(const LogTailStub& stub, const std::string& name,
                  const examples::StopSignals& signals) {
  auto request = stub.Tail();  // no deadline: it ends when the user has enough
  request->setName(name);
  request->setLastLines(absl::GetFlag(FLAGS_lines));
  request->setFollow(absl::GetFlag(FLAGS_follow));
  auto reader = request.Send();

  // Set by the thread that cancels, before it does; read when the stream has ended because of it.
  std::atomic<bool> stopped{false};
  const examples::OnStop on_stop(signals, [&stopped, canceller = reader.canceller()] {
    stopped.store(true, std::memory_order_relaxed);
    canceller.Cancel();
  });
  for (const auto& piece : reader.Messages()) {
    if (piece.getRestarted()) absl::FPrintF(stderr, "client: %s starts anew\n", name);
    if (absl::Status printed = Print(piece.getData()); !printed.ok()) return printed;
  }
  if (absl::IsCancelled(reader.status()) && stopped.load(std::memory_order_relaxed)) {
    return absl::OkStatus();
  }
  return reader.status();
}

// Until it is connected, one of the signals gives it up.
absl::Status Connect(mi7::Channel& channel, const std::string& endpoint,
                     const std::optional<examples::StopSignals>& signals) {
  const absl::Status connected = examples::ConnectUnlessStopped(channel, InTime(), signals);
  if (absl::IsCancelled(connected)) return connected;
  if (connected.ok()) return connected;
  return absl::Status(connected.code(),
                      absl::StrCat(connected.message(), "\nIs there a log server at ", endpoint,
                                   "? Start one with: server --logs=app=/var/log/app.log "
                                   "--listen=",
                                   endpoint));
}

absl::Status Run(const std::vector<char*>& arguments) {
  const std::string endpoint = absl::GetFlag(FLAGS_server);
  // A list ends at once by a signal, whatever it waits for.
  std::optional<examples::StopSignals> signals;
  if (arguments.size() == 3) signals.emplace();  // before there is a second thread
  absl::StatusOr<std::shared_ptr<mi7::Channel>> channel = mi7::Channel::Create(endpoint);
  if (!channel.ok()) return channel.status();
  if (absl::Status ready = Connect(**channel, endpoint, signals); !ready.ok()) return ready;
  const LogTailStub stub(*channel);
  const absl::Status status =
      arguments.size() == 2 ? List(stub) : Tail(stub, arguments[2], *signals);
  (*channel)->Close();
  return status.ok() ? Flush() : status;
}

bool Sound(const std::vector<char*>& arguments) {
  if (arguments.size() == 2) return absl::string_view(arguments[1]) == "list";
  return arguments.size() == 3 && absl::string_view(arguments[1]) == "tail";
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(kUsage);
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (!Sound(arguments)) {
    absl::FPrintF(stderr, "%s\n", kUsage);
    return 2;
  }
  if (absl::Status status = Run(arguments); !status.ok()) {
    absl::FPrintF(stderr, "client: %s\n",
                  status.ToString(absl::StatusToStringMode::kWithNoExtraData));
    return 1;
  }
  return 0;
}
