// Uses a file store from the command line, and proves that it keeps what it is given.

#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "examples/files/files.mi7.h"
#include "examples/files/transfer.h"
#include "examples/files/tree.h"
#include "examples/files/verify_tree.h"
#include "rpc/channel.h"

ABSL_FLAG(std::string, server, "mi7://127.0.0.1:4712", "The file server's endpoint.");
ABSL_FLAG(int, timeout_s, 30, "Seconds to wait for the connection, and for each answer.");
ABSL_FLAG(int, parallel, 4, "Files that verify-tree copies at a time.");
ABSL_FLAG(int, window, 4, "Ranges of one file, of 1 MiB each, that are on their way at a time.");

namespace {

using files::Entry;
using files::FileInfo;
using files::FileStoreStub;
using files::Kind;

constexpr char kUsage[] =
    "Uses a file server.\n"
    "  client [--server=ENDPOINT] ls [DIRECTORY]\n"
    "  client [--server=ENDPOINT] stat PATH\n"
    "  client [--server=ENDPOINT] get REMOTE LOCAL\n"
    "  client [--server=ENDPOINT] put LOCAL REMOTE\n"
    "  client [--server=ENDPOINT] mkdir DIRECTORY\n"
    "  client [--server=ENDPOINT] rm PATH\n"
    "  client [--server=ENDPOINT] verify-tree LOCAL_DIRECTORY\n"
    "verify-tree copies a directory to the server and back, compares, and removes both copies.\n"
    "Paths on the server are relative to the directory that it serves, which is '.'.";

// Set by the first SIGINT or SIGTERM; the second one ends the program at once.
std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler uses it");

void Interrupt(int) { interrupted = true; }

files::TransferOptions Transfer() {
  files::TransferOptions options;
  options.call_timeout = absl::Seconds(absl::GetFlag(FLAGS_timeout_s));
  options.window = static_cast<size_t>(std::max(1, absl::GetFlag(FLAGS_window)));
  return options;
}

void Print(FileInfo::Reader info, const std::string& name) {
  const char* kind = "other";
  switch (info.getKind()) {
    case Kind::FILE:
      kind = "file";
      break;
    case Kind::DIRECTORY:
      kind = "directory";
      break;
    case Kind::SYMLINK:
      kind = "link";
      break;
    case Kind::OTHER:
      break;
  }
  absl::PrintF("%-9s %04o %12d  %s  %s\n", kind, info.getMode(), info.getSize(),
               absl::FormatTime("%Y-%m-%d %H:%M:%S", absl::FromUnixNanos(info.getModifiedNs()),
                                absl::UTCTimeZone()),
               absl::Utf8SafeCHexEscape(name));
}

// --- The commands ---

using Arguments = std::vector<std::string>;

absl::Status List(const FileStoreStub& store, const Arguments& arguments) {
  const std::string directory = arguments.empty() ? "." : arguments[0];
  return files::ListRemote(store, directory, Transfer(), [](files::EntryPage entries) {
    for (Entry::Reader entry : entries) Print(entry.getInfo(), entry.getName().cStr());
    return absl::OkStatus();
  });
}

absl::Status Stat(const FileStoreStub& store, const Arguments& arguments) {
  auto request = store.Stat(Transfer().Call());
  request->setPath(arguments[0]);
  auto response = request.Send().Wait();
  if (!response.ok()) return response.status();
  Print(response->getInfo(), arguments[0]);
  return absl::OkStatus();
}

absl::Status Get(const FileStoreStub& store, const Arguments& arguments) {
  absl::StatusOr<uint64_t> bytes = files::Download(store, arguments[0], arguments[1], Transfer());
  if (!bytes.ok()) return bytes.status();
  absl::PrintF("%s: %d bytes over %s\n", arguments[1], *bytes, store.channel()->transport());
  return absl::OkStatus();
}

absl::Status Put(const FileStoreStub& store, const Arguments& arguments) {
  absl::StatusOr<uint64_t> bytes = files::Upload(store, arguments[0], arguments[1], Transfer());
  if (!bytes.ok()) return bytes.status();
  absl::PrintF("%s: %d bytes over %s\n", arguments[1], *bytes, store.channel()->transport());
  return absl::OkStatus();
}

absl::Status MakeDirectory(const FileStoreStub& store, const Arguments& arguments) {
  auto request = store.MakeDirectory(Transfer().Call());
  request->setPath(arguments[0]);
  request->setMode(0755);
  return request.Send().Wait().status();
}

absl::Status Remove(const FileStoreStub& store, const Arguments& arguments) {
  auto request = store.Remove(Transfer().Call());
  request->setPath(arguments[0]);
  return request.Send().Wait().status();
}

absl::Status VerifyTree(const FileStoreStub& store, const Arguments& arguments) {
  struct sigaction action {};
  action.sa_handler = Interrupt;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);

  absl::PrintF("%s\n", store.channel()->Describe());
  return files::VerifyTree(store, arguments[0],
                           {.transfer = Transfer(),
                            .parallel = absl::GetFlag(FLAGS_parallel),
                            .interrupted = &interrupted});
}

struct Command {
  const char* name;
  size_t arguments_min;
  size_t arguments_max;
  absl::Status (*run)(const FileStoreStub& store, const Arguments& arguments);
};

constexpr Command kCommands[] = {
    {"ls", 0, 1, List},
    {"stat", 1, 1, Stat},
    {"get", 2, 2, Get},
    {"put", 2, 2, Put},
    {"mkdir", 1, 1, MakeDirectory},
    {"rm", 1, 1, Remove},
    {"verify-tree", 1, 1, VerifyTree},
};

absl::Status Run(const Command& command, const Arguments& arguments) {
  const std::string endpoint = absl::GetFlag(FLAGS_server);
  absl::StatusOr<std::shared_ptr<mi7::Channel>> channel = mi7::Channel::Create(endpoint);
  if (!channel.ok()) return channel.status();
  absl::Status connected =
      (*channel)->Connect(mi7::Deadline::After(absl::Seconds(absl::GetFlag(FLAGS_timeout_s))));
  if (!connected.ok()) {
    return absl::Status(
        connected.code(),
        absl::StrCat(connected.message(), "\nIs there a file server at ", endpoint,
                     "? Start one with: server --root=DIRECTORY --listen=", endpoint));
  }
  return command.run(FileStoreStub(*channel), arguments);
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(kUsage);
  const std::vector<char*> words = absl::ParseCommandLine(argc, argv);
  const std::string name = words.size() > 1 ? words[1] : "";
  const Arguments arguments(words.begin() + std::min<size_t>(2, words.size()), words.end());
  for (const Command& command : kCommands) {
    if (name != command.name || arguments.size() < command.arguments_min ||
        arguments.size() > command.arguments_max) {
      continue;
    }
    absl::Status status = Run(command, arguments);
    if (status.ok()) return 0;
    absl::FPrintF(stderr, "client: %s\n",
                  status.ToString(absl::StatusToStringMode::kWithNoExtraData));
    return 1;
  }
  const bool known = std::any_of(std::begin(kCommands), std::end(kCommands),
                                 [&name](const Command& command) { return name == command.name; });
  if (known) {
    absl::FPrintF(stderr, "client: %s does not take %d arguments\n\n", name, arguments.size());
  } else if (!name.empty()) {
    absl::FPrintF(stderr, "client: unknown command '%s'\n\n", name);
  }
  absl::FPrintF(stderr, "%s\n", kUsage);
  return 2;
}
