#include "tools/mi7/pipe_commands.h"

#include <poll.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "tools/mi7/pipe_status.h"
#include "transport/slot_pipe/slot_pipe.h"

namespace mi7::tools {
namespace {

// What the verbs' options are parsed into. Lives as long as the program.
struct Flags {
  std::string name;
  std::vector<std::string> texts;
  bool json = false;
  bool create = false;
  bool live = false;
  bool force = false;
  bool dead_letters = false;
  bool keep = false;
  int64_t slot = -1;  // negative: all
  double interval_s = 1;
  double timeout_s = -1;  // negative: for ever
  int64_t count = 1;
  int64_t bench_count = 1'000'000;
  PipeOptions options;
};

Deadline DeadlineOf(const Flags& flags) {
  return flags.timeout_s < 0 ? Deadline::Infinite()
                             : Deadline::After(absl::Seconds(flags.timeout_s));
}

// The pipe that SIGINT and SIGTERM end the waits of.
SlotPipe* interruptible = nullptr;
volatile sig_atomic_t interrupted = 0;

void OnSignal(int) {
  interrupted = 1;
  if (interruptible != nullptr) interruptible->Cancel();
}

void CatchSignals(SlotPipe* pipe) {
  interruptible = pipe;
  struct sigaction action {};
  action.sa_handler = &OnSignal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

// Ends at once when a signal of CatchSignals comes, or has come since it was last looked for: they
// are let in by ppoll alone.
void PauseUntilSignal(double seconds) {
  sigset_t caught;
  sigset_t before;
  ::sigemptyset(&caught);
  ::sigaddset(&caught, SIGINT);
  ::sigaddset(&caught, SIGTERM);
  ::sigprocmask(SIG_BLOCK, &caught, &before);
  const timespec time = absl::ToTimespec(absl::Seconds(seconds));
  if (interrupted == 0) ::ppoll(nullptr, 0, &time, &before);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
}

// For people: without what is for programs.
std::string TextOf(const absl::Status& status) {
  return status.ToString(absl::StatusToStringMode::kWithNoExtraData);
}

absl::Status List(const Flags& flags) {
  const auto names = SlotPipe::List();
  if (!names.ok()) return names.status();
  if (names->empty() && !flags.json) std::cout << "There is no slot pipe.\n";
  for (const std::string& name : *names) {
    const auto status = SlotPipe::Inspect(name);
    if (flags.json) {
      std::cout << (status.ok()
                        ? StatusJson(*status)
                        : absl::StrCat(
                              "{\"name\":", JsonString(name), ",\"error\":",
                              JsonString(TextOf(status.status())), ",\"error_kind\":",
                              JsonString(SlotPipeErrorName(SlotPipeErrorOf(status.status()))), "}"))
                << "\n";
    } else if (status.ok()) {
      std::cout << absl::StrFormat("%-24s %6u slots of %8u bytes  %6u ready  %4u taking part\n",
                                   name, status->options.slots, status->options.slot_bytes,
                                   status->ready, TakingPart(*status));
    } else {
      std::cout << absl::StrFormat("%-24s %s\n", name, TextOf(status.status()));
    }
  }
  return absl::OkStatus();
}

absl::Status Show(const Flags& flags) {
  CatchSignals(nullptr);
  for (;;) {
    const auto status = SlotPipe::Inspect(flags.name);
    if (!status.ok()) return status.status();
    // A terminal is cleared, so that the text stays in its place.
    if (flags.live && !flags.json && ::isatty(1) != 0) std::cout << "\033[H\033[2J";
    std::cout << (flags.json ? StatusJson(*status) + "\n" : StatusText(*status)) << std::flush;
    if (!flags.live || interrupted != 0 || !std::cout) return absl::OkStatus();
    PauseUntilSignal(flags.interval_s);
    if (interrupted != 0) return absl::OkStatus();
  }
}

// One that is there is taken as it is: the sizes are those of a new pipe.
absl::StatusOr<std::unique_ptr<SlotPipe>> Open(const Flags& flags) {
  const JoinOptions join{.name = "mi7 pipe"};
  auto pipe = SlotPipe::Connect(flags.name, join);
  // Others may create and remove it between two steps.
  for (int round = 0; flags.create && absl::IsNotFound(pipe.status()) && round < 100; ++round) {
    pipe = SlotPipe::Create(flags.name, flags.options, join);
    if (absl::IsAlreadyExists(pipe.status())) pipe = SlotPipe::Connect(flags.name, join);
  }
  return pipe;
}

absl::Status Send(const Flags& flags) {
  auto pipe = Open(flags);
  if (!pipe.ok()) return pipe.status();
  CatchSignals(pipe->get());
  uint64_t sent = 0;
  absl::Status status;
  const auto send = [&](absl::string_view text) {
    status = (*pipe)->SendBytes(text, DeadlineOf(flags));
    if (status.ok()) ++sent;
    return status.ok();
  };
  if (!flags.texts.empty()) {
    for (const std::string& text : flags.texts) {
      if (!send(text)) break;
    }
  } else {
    std::string line;
    while (interrupted == 0 && std::getline(std::cin, line) && send(line)) {
    }
  }
  if (flags.json) {
    std::cout << "{\"sent\":" << sent << "}\n";
  } else {
    std::cerr << "sent " << sent << "\n";
  }
  interruptible = nullptr;
  return status;
}

// What a program is told of a message.
std::string MessageJson(const ReadSlot& message, bool dead_letter) {
  return absl::StrCat(
      "{\"slot\":", message.index(), ",\"attempt\":", message.attempt(),
      ",\"bytes\":", message.size(),
      dead_letter ? absl::StrCat(",\"overwritten\":", message.overwritten() ? "true" : "false")
                  : "",
      ",\"text\":", JsonString(message.text()), "}");
}

absl::Status Receive(const Flags& flags) {
  auto pipe = Open(flags);
  if (!pipe.ok()) return pipe.status();
  CatchSignals(pipe->get());
  absl::Status status;
  // Each dead letter once, also when all are kept.
  auto messages =
      flags.dead_letters ? (*pipe)->DeadLetters() : (*pipe)->Messages(DeadlineOf(flags));
  auto message = messages.end();
  for (int64_t i = 0; interrupted == 0 && (flags.count == 0 || i < flags.count); ++i) {
    if (i == 0) {
      message = messages.begin();
    } else {
      ++message;
    }
    if (!(message != messages.end())) {
      status = messages.status();
      break;
    }
    if (flags.json) {
      std::cout << MessageJson(*message, flags.dead_letters) << "\n";
    } else {
      std::cout << message->text() << "\n";
    }
    // Released only after it has left this process; what could not be written comes again.
    if (!std::cout.flush()) {
      status = absl::DataLossError("stdout cannot be written; the message stays in the pipe");
      break;
    }
    if (flags.keep) continue;
    status = message->Release();
    if (!status.ok()) break;
  }
  interruptible = nullptr;
  // Interrupted, or all dead letters read: what was asked for.
  if (interrupted != 0 && absl::IsCancelled(status)) return absl::OkStatus();
  if (flags.dead_letters && absl::IsUnavailable(status)) return absl::OkStatus();
  return status;
}

absl::Status ShowDeadLetters(const Flags& flags) {
  auto pipe = Open(flags);
  if (!pipe.ok()) return pipe.status();
  CatchSignals(pipe->get());
  uint32_t count = 0;
  auto letters = (*pipe)->DeadLetters();
  for (const ReadSlot& letter : letters) {
    if (interrupted != 0 || !std::cout) break;
    ++count;
    if (flags.json) {
      std::cout << MessageJson(letter, true) << std::endl;
      continue;
    }
    // The beginning of it, in one line, whatever is in it.
    constexpr size_t kShown = 60;
    std::cout << absl::StrFormat("slot %5u  %2u attempts  %8u bytes%s  %s%s\n", letter.index(),
                                 letter.attempt(), letter.size(),
                                 letter.overwritten() ? ", overwritten" : "",
                                 JsonString(letter.text().substr(0, kShown)),
                                 letter.size() > kShown ? "..." : "")
              << std::flush;
  }
  interruptible = nullptr;
  if (!std::cout) return absl::DataLossError("stdout cannot be written");
  if (count == 0 && !flags.json && interrupted == 0) std::cout << "There is no dead letter.\n";
  const bool all = interrupted != 0 || absl::IsUnavailable(letters.status());
  return all ? absl::OkStatus() : letters.status();
}

// All of them, or the one in a slot.
absl::StatusOr<uint32_t> RedriveThose(SlotPipe& pipe, const Flags& flags) {
  if (flags.slot < 0) return pipe.RedriveDeadLetters();
  auto letters = pipe.DeadLetters();
  for (ReadSlot& letter : letters) {
    if (letter.index() != flags.slot) continue;
    if (absl::Status redriven = letter.Redrive(); !redriven.ok()) return redriven;
    return 1;
  }
  if (!absl::IsUnavailable(letters.status())) return letters.status();
  return absl::NotFoundError(
      absl::StrCat("slot pipe '", pipe.name(), "': there is no dead letter in slot ", flags.slot));
}

absl::Status Redrive(const Flags& flags) {
  auto pipe = Open(flags);
  if (!pipe.ok()) return pipe.status();
  const auto redriven = RedriveThose(**pipe, flags);
  if (!redriven.ok()) return redriven.status();
  const uint32_t left = (*pipe)->Status().dead_letters;
  if (flags.json) {
    std::cout << "{\"redriven\":" << *redriven << ",\"dead_letters\":" << left << "}\n";
  } else {
    std::cout << "redriven " << *redriven << ", " << left << " dead letters are left\n";
  }
  return absl::OkStatus();
}

absl::Status Bench(const Flags& flags) {
  const std::string name = absl::StrCat("bench-", ::getpid());
  auto pipe = SlotPipe::Create(name, flags.options, {.name = "mi7 pipe bench"});
  if (!pipe.ok()) return pipe.status();
  SlotPipe::Remove(name, true).IgnoreError();  // it needs no name
  const std::string payload(std::min<size_t>(64, flags.options.slot_bytes), 'x');
  const auto ns_each = [&](absl::Time start) {
    return absl::ToDoubleNanoseconds(absl::Now() - start) / static_cast<double>(flags.bench_count);
  };

  absl::Time start = absl::Now();
  for (int64_t i = 0; i < flags.bench_count; ++i) {
    if (absl::Status sent = (*pipe)->SendBytes(payload); !sent.ok()) return sent;
    auto message = (*pipe)->Fetch();
    if (!message.ok()) return message.status();
    if (absl::Status released = message->Release(); !released.ok()) return released;
  }
  const double alone_ns = ns_each(start);

  start = absl::Now();
  absl::Status sent;
  std::thread producer([&] {
    for (int64_t i = 0; i < flags.bench_count && sent.ok(); ++i) sent = (*pipe)->SendBytes(payload);
    if (!sent.ok()) (*pipe)->Cancel();
  });
  absl::Status received;
  for (int64_t i = 0; i < flags.bench_count && received.ok(); ++i) {
    auto message = (*pipe)->Fetch();
    received = message.ok() ? message->Release() : message.status();
    if (!received.ok()) (*pipe)->Cancel();
  }
  producer.join();
  if (!sent.ok()) return sent;
  if (!received.ok()) return received;
  const double stream_ns = ns_each(start);
  if (flags.json) {
    std::cout << absl::StrFormat(
        "{\"messages\":%d,\"bytes\":%u,\"one_thread_ns\":%.1f,\"two_threads_ns\":%.1f}\n",
        flags.bench_count, payload.size(), alone_ns, stream_ns);
  } else {
    std::cout << absl::StrFormat(
        "%d messages of %u bytes through %u slots\n"
        "  one thread, one message at a time: %8.1f ns each\n"
        "  a producer and a consumer thread:  %8.1f ns each\n",
        flags.bench_count, payload.size(), flags.options.slots, alone_ns, stream_ns);
  }
  return absl::OkStatus();
}

absl::Status Recover(const Flags& flags) {
  // Connecting recovers, too: what it has found is seen in the counts.
  const auto before = SlotPipe::Inspect(flags.name);
  if (!before.ok()) return before.status();
  auto pipe = Open(flags);
  if (!pipe.ok()) return pipe.status();
  const PipeStatus after = (*pipe)->Status();
  const uint64_t participants = after.recovered_participants - before->recovered_participants;
  const uint64_t slots = after.recovered_slots - before->recovered_slots;
  if (flags.json) {
    std::cout << "{\"participants\":" << participants << ",\"slots\":" << slots << "}\n";
  } else {
    std::cout << "recovered " << slots << " slots of " << participants << " dead participants\n";
  }
  return absl::OkStatus();
}

absl::Status Remove(const Flags& flags) {
  absl::Status removed = SlotPipe::Remove(flags.name, flags.force);
  if (removed.ok() && flags.json) std::cout << "{\"removed\":" << JsonString(flags.name) << "}\n";
  return removed;
}

// For CLI11, whose ranges contain nan: it is neither below nor above them.
std::string ExceptNan(const std::string& number) {
  return std::isnan(std::strtod(number.c_str(), nullptr)) ? number + " is no number" : "";
}

}  // namespace

void AddPipeCommands(CLI::App& app, int& status) {
  auto flags = std::make_shared<Flags>();
  CLI::App* pipe = app.add_subcommand(
      "pipe", "Slot pipes: named, crash-safe pipes in shared memory (docs/SLOT_PIPE.md)");
  pipe->require_subcommand(1);
  const auto verb = [&](const char* name, const char* help,
                        absl::Status (*run)(const Flags&)) -> CLI::App* {
    CLI::App* command = pipe->add_subcommand(name, help);
    command->callback([flags, run, &status] {
      if (absl::Status done = run(*flags); !done.ok()) {
        std::cerr << "mi7: " << TextOf(done) << "\n";
        status = 1;
      }
    });
    return command;
  };
  const auto named = [&](CLI::App* command) {
    command->add_option("name", flags->name, "Name of the pipe")->required();
  };
  const auto json = [&](CLI::App* command, const char* what) {
    command->add_flag("--json", flags->json, what);
  };
  const auto geometry = [&](CLI::App* command) {
    command->add_option("--slots", flags->options.slots, "Slots of a new pipe")
        ->capture_default_str();
    command->add_option("--slot-bytes", flags->options.slot_bytes, "Bytes of a slot")
        ->capture_default_str();
  };
  const auto creating = [&](CLI::App* command) {
    command->add_flag("--create", flags->create, "Create the pipe if there is none");
    geometry(command);
    command->add_option("--timeout", flags->timeout_s, "Seconds to wait; for ever when not given")
        ->check(CLI::NonNegativeNumber)
        ->check(ExceptNan);
  };

  json(verb("ls", "Lists all pipes", &List), "One JSON object a line");

  CLI::App* show = verb("status", "Shows slots, counters and participants of a pipe", &Show);
  named(show);
  json(show, "One JSON object a line");
  show->add_flag("--live", flags->live, "Shows it again and again, until interrupted");
  show->add_option("--interval", flags->interval_s, "Seconds between two looks of --live")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->check(ExceptNan);

  CLI::App* send = verb("send", "Sends texts, or each line of stdin", &Send);
  named(send);
  send->add_option("text", flags->texts, "Messages to send; none: the lines of stdin");
  json(send, "One JSON object with the number sent");
  creating(send);

  CLI::App* receive = verb("receive", "Receives messages and prints each in a line", &Receive);
  named(receive);
  receive->add_option("--count", flags->count, "Messages to receive; 0: without end")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  CLI::Option* dead_letters =
      receive->add_flag("--dead-letters", flags->dead_letters,
                        "Takes those that were fetched too often or overwritten; never waits");
  receive->add_flag("--keep", flags->keep, "Only looks: each stays a dead letter, as it was before")
      ->needs(dead_letters);
  json(receive, "One JSON object a message, with slot and attempt");
  creating(receive);

  CLI::App* show_dead_letters =
      verb("dead-letters",
           "Shows messages that were fetched too often or overwritten, and leaves them there",
           &ShowDeadLetters);
  named(show_dead_letters);
  json(show_dead_letters, "One JSON object a dead letter, with slot, attempts and all of its text");

  CLI::App* redrive =
      verb("redrive", "Sends dead letters again, with their attempts forgotten", &Redrive);
  named(redrive);
  redrive
      ->add_option("--slot", flags->slot,
                   "Only the one in this slot; all, but what was overwritten, when not given")
      ->check(CLI::NonNegativeNumber);
  json(redrive, "One JSON object with the number redriven, and of those that are left");

  CLI::App* bench = verb("bench", "Measures a pipe of its own on this machine", &Bench);
  bench->add_option("--count", flags->bench_count, "Messages")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  geometry(bench);
  json(bench, "One JSON object");

  CLI::App* recover = verb("recover", "Recovers what dead participants left", &Recover);
  named(recover);
  json(recover, "One JSON object");

  CLI::App* remove = verb("rm", "Removes a pipe with all that is in it", &Remove);
  named(remove);
  remove->add_flag("--force", flags->force, "Also when somebody takes part in it");
  json(remove, "One JSON object");
}

}  // namespace mi7::tools
