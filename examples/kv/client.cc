// Uses a key-value store from the command line.

#include <atomic>
#include <cstdint>
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
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "examples/kv/kv.mi7.h"
#include "examples/stop_signals/stop_signals.h"
#include "rpc/channel.h"

ABSL_FLAG(std::string, server, "mi7://127.0.0.1:4715", "The store's endpoint.");
ABSL_FLAG(int, timeout_s, 30, "Seconds to wait for each answer, the connection included.");
ABSL_FLAG(int64_t, if_revision, -1,
          "put, remove: only if the key has this revision; 0: only if there is no such key.");
ABSL_FLAG(uint64_t, after, 0, "watch: only what has changed after this revision.");

namespace {

using kv::Change;
using kv::StoreStub;

constexpr char kUsage[] =
    "Uses a key-value store.\n"
    "  client [--server=ENDPOINT] get KEY\n"
    "  client [--server=ENDPOINT] [--if_revision=N] put KEY VALUE\n"
    "  client [--server=ENDPOINT] [--if_revision=N] remove KEY\n"
    "  client [--server=ENDPOINT] list [PREFIX]\n"
    "  client [--server=ENDPOINT] [--after=N] watch [PREFIX]\n"
    "watch prints changes until SIGINT (Ctrl-C) or SIGTERM, also over restarts of the server.";

// Waits for a server that is being restarted.
mi7::CallOptions InTime() {
  return {.deadline = mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_timeout_s))),
          .wait_for_ready = true};
}

// Output that got nowhere is a failure.
absl::Status Flush() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return absl::OkStatus();
  return absl::DataLossError("cannot write to the standard output");
}

// On one line.
std::string Text(capnp::Data::Reader data) {
  return absl::CHexEscape({reinterpret_cast<const char*>(data.begin()), data.size()});
}
std::string Text(capnp::Text::Reader text) { return absl::CHexEscape({text.cStr(), text.size()}); }

void SetCondition(kv::Condition::Builder condition) {
  const int64_t revision = absl::GetFlag(FLAGS_if_revision);
  if (revision >= 0) condition.setRevision(static_cast<uint64_t>(revision));
}

absl::Status Get(const StoreStub& stub, const std::string& key) {
  auto request = stub.Get(InTime());
  request->setKey(key);
  auto response = request.Send().Wait();
  if (!response.ok()) return response.status();
  absl::PrintF("%s (revision %d)\n", Text(response->getValue()), response->getRevision());
  return absl::OkStatus();
}

absl::Status Put(const StoreStub& stub, const std::string& key, const std::string& value) {
  auto request = stub.Put(InTime());
  request->setKey(key);
  request->setValue({reinterpret_cast<const kj::byte*>(value.data()), value.size()});
  SetCondition(request->initCondition());
  auto response = request.Send().Wait();
  if (!response.ok()) return response.status();
  absl::PrintF("revision %d\n", response->getRevision());
  return absl::OkStatus();
}

absl::Status Remove(const StoreStub& stub, const std::string& key) {
  auto request = stub.Remove(InTime());
  request->setKey(key);
  SetCondition(request->initCondition());
  auto response = request.Send().Wait();
  if (!response.ok()) return response.status();
  absl::PrintF("revision %d\n", response->getRevision());
  return absl::OkStatus();
}

absl::Status List(const StoreStub& stub, const std::string& prefix) {
  std::string after;
  for (;;) {
    auto request = stub.List(InTime());
    request->setPrefix(prefix);
    request->setAfter(after);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status();
    for (kv::Entry::Reader entry : response->getEntries()) {
      absl::PrintF("%s = %s (revision %d)\n", Text(entry.getKey()), Text(entry.getValue()),
                   entry.getRevision());
      after = entry.getKey().cStr();
    }
    if (!response->getMore() || response->getEntries().size() == 0) return absl::OkStatus();
  }
}

// Shows the changes after `revision`, which becomes that of the last one shown.
absl::Status WatchOnce(const StoreStub& stub, const std::string& prefix,
                       const examples::StopSignals& signals, std::atomic<bool>& stopped,
                       uint64_t& revision) {
  auto request = stub.Watch({.wait_for_ready = true});  // no deadline: as long as one likes
  request->setPrefix(prefix);
  request->setAfter(revision);
  auto reader = request.Send();
  const examples::OnStop on_stop(signals, [&stopped, canceller = reader.canceller()] {
    stopped.store(true, std::memory_order_relaxed);
    canceller.Cancel();
  });
  for (const auto& change : reader.Messages()) {
    if (change.isRemoved()) {
      absl::PrintF("%d removed %s\n", change.getRevision(), Text(change.getKey()));
    } else {
      absl::PrintF("%d %s = %s\n", change.getRevision(), Text(change.getKey()),
                   Text(change.getValue()));
    }
    if (absl::Status shown = Flush(); !shown.ok()) return shown;
    revision = change.getRevision();
  }
  return reader.status();
}

absl::Status Watch(const StoreStub& stub, const std::string& prefix,
                   const examples::StopSignals& signals) {
  uint64_t revision = absl::GetFlag(FLAGS_after);
  // Set by the thread that cancels, before it does; read when the stream has ended because of it.
  std::atomic<bool> stopped{false};
  for (;;) {
    absl::Status status = WatchOnce(stub, prefix, signals, stopped, revision);
    if (stopped.load(std::memory_order_relaxed)) return absl::OkStatus();
    // A stream that has begun is not repeated by itself, since only its user knows where it stood.
    if (!absl::IsUnavailable(status)) return status;
    absl::FPrintF(stderr, "client: %s; going on after revision %d\n", status.message(), revision);
  }
}

absl::Status Run(const std::vector<char*>& arguments) {
  const absl::string_view command = arguments[1];
  // The others end at once by a signal, whatever they wait for.
  std::optional<examples::StopSignals> signals;
  if (command == "watch") signals.emplace();  // before there is a second thread
  absl::StatusOr<std::shared_ptr<mi7::Channel>> channel =
      mi7::Channel::Create(absl::GetFlag(FLAGS_server));
  if (!channel.ok()) return channel.status();
  const StoreStub stub(*channel);
  absl::Status status;
  if (command == "get") {
    status = Get(stub, arguments[2]);
  } else if (command == "put") {
    status = Put(stub, arguments[2], arguments[3]);
  } else if (command == "remove") {
    status = Remove(stub, arguments[2]);
  } else {
    const std::string prefix = arguments.size() > 2 ? arguments[2] : "";
    status = command == "list" ? List(stub, prefix) : Watch(stub, prefix, *signals);
  }
  (*channel)->Close();
  return status.ok() ? Flush() : status;
}

bool Sound(const std::vector<char*>& arguments) {
  if (arguments.size() < 2) return false;
  const absl::string_view command = arguments[1];
  if (command == "get" || command == "remove") return arguments.size() == 3;
  if (command == "put") return arguments.size() == 4;
  return (command == "list" || command == "watch") && arguments.size() <= 3;
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
