// Talks in a chat room: says what comes on the standard input, a line at a time, and prints what
// others say.

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "examples/chat/chat.mi7.h"
#include "examples/stop_signals/connect.h"
#include "examples/stop_signals/stop_signals.h"
#include "rpc/channel.h"

ABSL_FLAG(std::string, server, "mi7://127.0.0.1:4714", "The room's endpoint.");
ABSL_FLAG(std::string, name, "", "Who you are in the room: letters, digits, - and _.");
ABSL_FLAG(bool, who, false, "Only print who is in the room.");
ABSL_FLAG(int, timeout_s, 30, "Seconds to wait for the connection, and for who is in the room.");

namespace {

using chat::FromRoom;
using chat::RoomStub;
using Stream = mi7::BidiStream<chat::ToRoom, FromRoom>;

mi7::Deadline InTime() {
  return mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_timeout_s)));
}

// Output that got nowhere is a failure.
absl::Status Flush() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return absl::OkStatus();
  return absl::DataLossError("cannot write to the standard output");
}

absl::Status Print(FromRoom::Reader message) {
  switch (message.which()) {
    case FromRoom::WELCOME: {
      std::string others;
      for (const char* separator = ""; capnp::Text::Reader name : message.getWelcome()) {
        absl::StrAppend(&others, separator, name.cStr());
        separator = ", ";
      }
      absl::PrintF("* with you in the room: %s\n", others.empty() ? "nobody" : others);
      break;
    }
    case FromRoom::JOINED:
      absl::PrintF("* %s comes\n", message.getJoined().cStr());
      break;
    case FromRoom::LEFT:
      absl::PrintF("* %s goes\n", message.getLeft().cStr());
      break;
    case FromRoom::SAID:
      absl::PrintF("%s: %s\n", message.getSaid().getName().cStr(),
                   message.getSaid().getText().cStr());
      break;
    case FromRoom::MISSED:
      absl::PrintF("* %d messages missed: you read too slowly\n", message.getMissed());
      break;
  }
  return Flush();
}

absl::Status Say(Stream& stream, const std::string& text) {
  auto message = stream.writer().NewMessage();
  message->setText(text);
  return stream.writer().Write(std::move(message)).Wait();
}

// Says the lines of the standard input until its end, or until `over_fd` is readable. Why writing
// failed is told by the stream's end, which the reading thread sees.
void SayLines(Stream& stream, int over_fd) {
  std::string input;
  for (;;) {
    pollfd fds[] = {{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                    {.fd = over_fd, .events = POLLIN, .revents = 0}};
    if (::poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      break;
    }
    if (fds[1].revents != 0) return;
    char bytes[4096];
    const ssize_t got = ::read(STDIN_FILENO, bytes, sizeof bytes);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) break;
    input.append(bytes, static_cast<size_t>(got));
    size_t begin = 0;
    for (size_t end; (end = input.find('\n', begin)) != std::string::npos; begin = end + 1) {
      if (end != begin && !Say(stream, input.substr(begin, end - begin)).ok()) return;
    }
    input.erase(0, begin);
  }
  if (!input.empty() && !Say(stream, input).ok()) return;
  stream.writer().Close();
}

absl::Status Talk(const RoomStub& stub, const examples::StopSignals& signals) {
  const int over_fd = ::eventfd(0, EFD_CLOEXEC);
  if (over_fd < 0) return absl::ErrnoToStatus(errno, "eventfd");
  Stream stream = stub.Join();  // no deadline: it lasts as long as one likes to talk
  auto hello = stream.writer().NewMessage();
  hello->setName(absl::GetFlag(FLAGS_name));
  stream.writer().Write(std::move(hello)).Wait().IgnoreError();  // the stream's end says why

  // Set by the thread that cancels, before it does; read when the stream has ended because of it.
  std::atomic<bool> stopped{false};
  absl::Status status;
  {
    const examples::OnStop on_stop(signals, [&stopped, canceller = stream.canceller()] {
      stopped.store(true, std::memory_order_relaxed);
      canceller.Cancel();
    });
    std::thread reading([&stream, &status, over_fd] {
      for (const auto& message : stream.reader().Messages()) {
        status = Print(message);
        if (!status.ok()) break;
      }
      if (status.ok()) {
        status = stream.reader().status();
      } else {
        stream.canceller().Cancel();  // whoever writes to it
      }
      const uint64_t one = 1;
      if (::write(over_fd, &one, sizeof one) < 0) std::perror("eventfd");
    });
    SayLines(stream, over_fd);
    reading.join();
  }
  ::close(over_fd);
  if (absl::IsCancelled(status) && stopped.load(std::memory_order_relaxed)) {
    return absl::OkStatus();
  }
  return status;
}

absl::Status Who(const RoomStub& stub) {
  auto response = stub.Who({.deadline = InTime()}).Send().Wait();
  if (!response.ok()) return response.status();
  for (capnp::Text::Reader name : response->getNames()) absl::PrintF("%s\n", name.cStr());
  return absl::OkStatus();
}

// Until it is connected, one of the signals gives it up.
absl::Status Connect(mi7::Channel& channel, const std::string& endpoint,
                     const std::optional<examples::StopSignals>& signals) {
  const absl::Status connected = examples::ConnectUnlessStopped(channel, InTime(), signals);
  if (absl::IsCancelled(connected)) return connected;
  if (connected.ok()) return connected;
  return absl::Status(connected.code(),
                      absl::StrCat(connected.message(), "\nIs there a room at ", endpoint,
                                   "? Open one with: server --listen=", endpoint));
}

absl::Status Run() {
  const std::string endpoint = absl::GetFlag(FLAGS_server);
  if (absl::GetFlag(FLAGS_name).empty() && !absl::GetFlag(FLAGS_who)) {
    return absl::InvalidArgumentError("--name is missing: say who you are, as in --name=ann");
  }
  // --who ends at once by a signal, whatever it waits for.
  std::optional<examples::StopSignals> signals;
  if (!absl::GetFlag(FLAGS_who)) signals.emplace();  // before there is a second thread
  absl::StatusOr<std::shared_ptr<mi7::Channel>> channel = mi7::Channel::Create(endpoint);
  if (!channel.ok()) return channel.status();
  if (absl::Status ready = Connect(**channel, endpoint, signals); !ready.ok()) return ready;
  const RoomStub stub(*channel);
  const absl::Status status = absl::GetFlag(FLAGS_who) ? Who(stub) : Talk(stub, *signals);
  (*channel)->Close();
  return status.ok() ? Flush() : status;
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "Talks in a chat room: says what comes on the standard input, and prints what others say,\n"
      "until the end of the input, SIGINT (Ctrl-C) or SIGTERM.\n"
      "  client --server=mi7://127.0.0.1:4714 --name=ann\n"
      "  client --server=mi7://127.0.0.1:4714 --who");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() > 1) {
    absl::FPrintF(stderr, "client: unexpected argument '%s'; see client --help\n", arguments[1]);
    return 2;
  }
  if (absl::Status status = Run(); !status.ok()) {
    absl::FPrintF(stderr, "client: %s\n",
                  status.ToString(absl::StatusToStringMode::kWithNoExtraData));
    return 1;
  }
  return 0;
}
