// The program of a subject. Its command line, written by the bench only:
//
//   PROGRAM serve WORKLOAD               says "ready ADDRESS", then serves
//   PROGRAM serve-watched WORKLOAD       the same, and answers "memory" with its memory use
//   PROGRAM join WORKLOAD ADDRESS        one more server; says "ready ADDRESS"
//   PROGRAM call WORKLOAD ADDRESS PID    says "connected", hears "go", makes the calls, fills the
//                                        result memory, says "done"
//   PROGRAM idle ADDRESS                 answers "open N" and "memory" with its memory use
//
// Each says "error WHY" when it gives up.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/child_process.h"
#include "bench/harness/memory_use.h"
#include "bench/harness/recorder.h"
#include "bench/harness/result.h"
#include "bench/harness/subject.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

constinit CountIn count_in = nullptr;

absl::Status Subject::Join(const std::string&, const Workload&, const std::function<void()>&) {
  return absl::UnimplementedError("it has one server process");
}

absl::Status Subject::MakeCallsInThreads(const std::string&, const Workload&,
                                         std::span<const std::unique_ptr<Recorder>>) {
  return absl::UnimplementedError("its clients have one thread");
}

absl::Status InThreads(std::span<const std::unique_ptr<Recorder>> recorders,
                       const std::function<absl::Status(Recorder&)>& make_calls) {
  std::vector<absl::Status> made(recorders.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < recorders.size(); ++i) {
    threads.emplace_back([&, i] { made[i] = make_calls(*recorders[i]); });
  }
  absl::Status status;
  for (size_t i = 0; i < recorders.size(); ++i) {
    threads[i].join();
    status.Update(made[i]);
  }
  return status;
}

absl::Status Subject::OpenIdleConnections(const std::string&, int) {
  return absl::UnimplementedError("it has no connections that could be idle");
}

namespace {

void Say(const std::string& line) {
  const std::string text = line + "\n";
  if (::send(kChildControlFd, text.data(), text.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(text.size())) {
    ::_exit(1);  // nobody listens any more
  }
}

// The next line from the bench; nullopt when it has closed its end.
std::optional<std::string> Hear() {
  std::string line;
  char next = 0;
  while (::recv(kChildControlFd, &next, 1, 0) == 1) {
    if (next == '\n') return line;
    line.push_back(next);
  }
  return std::nullopt;
}

// Tells the bench why this process gives up; the line is what a person will read in the table.
int Fail(const absl::Status& status) {
  std::string message(status.message());
  std::replace(message.begin(), message.end(), '\n', ' ');
  Say(absl::StrCat("error ", message));
  return 1;
}

void SayMemory() {
  const absl::StatusOr<MemoryUse> use = ReadMemoryUse();
  if (!use.ok()) ::_exit(Fail(use.status()));
  Say(use->Encode());
}

// CPU time of `clock` in nanoseconds; 0 when the process is gone.
int64_t CpuNanos(clockid_t clock) {
  timespec time = {};
  if (::clock_gettime(clock, &time) != 0) return 0;
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// `ready` is given to one of the two ways to serve, which returns only an error.
template <typename ServeOrJoin>
int Serve(Subject& subject, bool watched, ServeOrJoin serve_or_join) {
  // Who profiles tells the two sides apart by it (micro/profile_sides.py); a client has the
  // program's own name.
  ::prctl(PR_SET_NAME, "bench-server");
  // Kept for the rest of the process: threads of the subject count in it until the end.
  absl::StatusOr<ResultMemory> memory = ResultMemory::Open(kChildResultFd);
  if (memory.ok()) {
    if (count_in != nullptr) count_in(&memory->header().server_counts);
    subject.CountServedIn(&memory->header().served);
  }
  std::thread watcher;
  const absl::Status ended = serve_or_join([&](const std::string& address) {
    Say(absl::StrCat("ready ", address));
    if (!watched) return;
    watcher = std::thread([] {
      while (const std::optional<std::string> command = Hear()) SayMemory();
      ::_exit(0);
    });
  });
  if (memory.ok() && ended.code() == absl::StatusCode::kDataLoss) {
    memory->header().damaged.store(1, std::memory_order_relaxed);  // measure.cc
  }
  // A joinable thread must not be destroyed, and the watcher ends only with the process.
  ::_exit(Fail(ended));
}

Counted Read(const Counts& counts) {
  const auto read = [](const std::atomic<uint64_t>& value) {
    return value.load(std::memory_order_relaxed);  // a count
  };
  return {.allocations = read(counts.allocations),
          .copied_bytes = read(counts.copied_bytes),
          .system_calls = read(counts.system_calls),
          .wakes = read(counts.wakes),
          .futex_wakes = read(counts.futex_wakes),
          .receives = read(counts.receives),
          .sends = read(counts.sends),
          .polls = read(counts.polls),
          .cpu_questions = read(counts.cpu_questions),
          .cpu_offers = read(counts.cpu_offers)};
}

Counted Since(const Counted& begin, const Counted& now) {
  return {.allocations = now.allocations - begin.allocations,
          .copied_bytes = now.copied_bytes - begin.copied_bytes,
          .system_calls = now.system_calls - begin.system_calls,
          .wakes = now.wakes - begin.wakes,
          .futex_wakes = now.futex_wakes - begin.futex_wakes,
          .receives = now.receives - begin.receives,
          .sends = now.sends - begin.sends,
          .polls = now.polls - begin.polls,
          .cpu_questions = now.cpu_questions - begin.cpu_questions,
          .cpu_offers = now.cpu_offers - begin.cpu_offers};
}

// What is read at the edges of the measured stretch.
struct Readings {
  int64_t client_cpu_ns = 0;
  int64_t server_cpu_ns = 0;
  Counted client = {};
  Counted server = {};

  static Readings Take(const ResultHeader& header, clockid_t server) {
    return {.client_cpu_ns = CpuNanos(CLOCK_PROCESS_CPUTIME_ID),
            .server_cpu_ns = CpuNanos(server),
            .client = Read(header.client_counts),
            .server = Read(header.server_counts)};
  }
};

// Of the first thread: its measured stretch is the process's.
class FirstObserver final : public Recorder::Observer {
 public:
  FirstObserver(ResultHeader& header, clockid_t server) : header_(header), server_(server) {}

  void OnStart() override { WaitForGo(); }
  void OnBegin() override {
    at_begin_ = Readings::Take(header_, server_);
    // Relaxed, like its end: whoever watches from outside stops this process to look.
    header_.measuring.store(1, std::memory_order_relaxed);
  }
  void OnEnd() override {
    header_.measuring.store(0, std::memory_order_relaxed);
    const Readings now = Readings::Take(header_, server_);
    header_.client_cpu_ns = now.client_cpu_ns - at_begin_.client_cpu_ns;
    header_.server_cpu_ns = now.server_cpu_ns - at_begin_.server_cpu_ns;
    header_.client_counted = Since(at_begin_.client, now.client);
    header_.server_counted = Since(at_begin_.server, now.server);
  }
  // Whoever comes first says that all is connected; all go on when the bench says so.
  void WaitForGo() {
    std::call_once(gone_, [] {
      Say("connected");
      if (!Hear().has_value()) ::_exit(1);
    });
  }

 private:
  ResultHeader& header_;
  const clockid_t server_;
  std::once_flag gone_;
  Readings at_begin_;
};

// Of the other threads.
class OtherObserver final : public Recorder::Observer {
 public:
  explicit OtherObserver(FirstObserver& first) : first_(first) {}
  void OnStart() override { first_.WaitForGo(); }
  void OnBegin() override {}
  void OnEnd() override {}

 private:
  FirstObserver& first_;
};

int MakeCalls(Subject& subject, const Workload& workload, const std::string& address,
              pid_t server) {
  absl::StatusOr<ResultMemory> memory = ResultMemory::Open(kChildResultFd);
  if (!memory.ok()) return Fail(memory.status());
  ResultHeader& header = memory->header();
  if (count_in != nullptr) count_in(&header.client_counts);
  clockid_t server_clock = {};
  if (::clock_getcpuclockid(server, &server_clock) != 0) {
    return Fail(absl::UnavailableError("the server process is gone"));
  }
  FirstObserver first(header, server_clock);
  OtherObserver other(first);
  const auto threads = static_cast<size_t>(workload.threads);
  const size_t share = kLatenciesMax / threads;
  std::vector<std::unique_ptr<Recorder>> recorders;
  for (size_t i = 0; i < threads; ++i) {
    Recorder::Observer* const observer = i == 0 ? static_cast<Recorder::Observer*>(&first) : &other;
    recorders.push_back(std::make_unique<Recorder>(
        workload, memory->latencies().subspan(i * share, share), observer));
  }
  const absl::Status made = threads == 1 ? subject.MakeCalls(address, workload, *recorders[0])
                                         : subject.MakeCallsInThreads(address, workload, recorders);
  if (!made.ok()) return Fail(made);
  header.calls_least = recorders[0]->calls();
  for (const std::unique_ptr<Recorder>& recorder : recorders) {
    if (!recorder->done()) return Fail(absl::InternalError("the subject stopped before its time"));
    header.calls += recorder->calls();
    header.calls_least = std::min(header.calls_least, recorder->calls());
    header.calls_most = std::max(header.calls_most, recorder->calls());
    // Moved together; the first ones lie right.
    std::copy_n(
        memory->latencies().begin() +
            static_cast<std::ptrdiff_t>(static_cast<size_t>(&recorder - recorders.data()) * share),
        recorder->stored(),
        memory->latencies().begin() + static_cast<std::ptrdiff_t>(header.stored));
    header.stored += recorder->stored();
  }
  header.elapsed_ns = recorders[0]->elapsed_ns();
  header.begun_ns = recorders[0]->begun_ns();
  Say("done");
  // Without destructors of the subject's threads and connections: how fast they end is not
  // measured here, and some peers take seconds.
  ::_exit(0);
}

int Idle(Subject& subject, const std::string& address) {
  while (const std::optional<std::string> command = Hear()) {
    std::string_view rest = *command;
    int count = 0;
    if (rest.substr(0, 5) == "open ") {
      if (!absl::SimpleAtoi(std::string(rest.substr(5)), &count)) return 2;
      const absl::Status opened = subject.OpenIdleConnections(address, count);
      if (!opened.ok()) return Fail(opened);
    }
    SayMemory();
  }
  // Without destructors: closing thousands of connections in order is not what is measured.
  ::_exit(0);
}

}  // namespace

int RunSubject(int argc, char** argv, Subject& subject) {
  // Again, for whoever starts the program otherwise; the bench has asked for it already.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::string_view role = argc > 1 ? argv[1] : "";
  if (role == "idle" && argc == 3) return Idle(subject, argv[2]);
  const absl::StatusOr<Workload> workload = Workload::Decode(argc > 2 ? argv[2] : "");
  if ((role == "serve" || role == "serve-watched") && argc == 3 && workload.ok()) {
    return Serve(subject, role == "serve-watched",
                 [&](const auto& ready) { return subject.Serve(*workload, ready); });
  }
  if (role == "join" && argc == 4 && workload.ok()) {
    const std::string address = argv[3];
    return Serve(subject, false, [&](const auto& ready) {
      return subject.Join(address, *workload, [&] { ready(address); });
    });
  }
  pid_t server = 0;
  if (role == "call" && argc == 5 && workload.ok() && absl::SimpleAtoi(argv[4], &server)) {
    return MakeCalls(subject, *workload, argv[3], server);
  }
  std::fprintf(stderr, "%s is started by the bench: run tools/bench\n", argv[0]);
  return 2;
}

}  // namespace mi7::bench
