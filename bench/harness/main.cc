// The bench: `tools/bench` builds and runs it. See bench/README.md.

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bench/harness/html_report.h"
#include "bench/harness/machine.h"
#include "bench/harness/plan.h"
#include "bench/harness/report.h"
#include "bench/harness/results_file.h"
#include "bench/harness/runner.h"

ABSL_FLAG(bool, quick, false, "short runs: everything in under 3 minutes");
ABSL_FLAG(int, rounds, 0, "rounds; 0: 9 when quick, else 15");
ABSL_FLAG(absl::Duration, measure, absl::ZeroDuration(),
          "measured time of each run; 0: 20ms when quick, else 120ms");
ABSL_FLAG(std::vector<std::string>, placements,
          std::vector<std::string>({"different", "one", "unpinned"}),
          "where client and server run: any of different, one, unpinned");
ABSL_FLAG(std::vector<std::string>, only, {},
          "rows to measure, by the beginning of their id (T1, raw, capnp), or all of it (T1$); "
          "default: all");
ABSL_FLAG(int, idle_connections, 0, "connections of T5; 0: 2000 when quick, else 10000");
ABSL_FLAG(std::string, json, "", "file to write one JSON object per row into");
ABSL_FLAG(std::string, html, "", "file to write a report with charts into");
ABSL_FLAG(bool, compare, false, "instead of measuring, tells what got worse: --compare A B");
ABSL_FLAG(std::string, compile_roots, "", "set by tools/bench");
ABSL_FLAG(std::string, programs, "",
          "directory of the subjects' programs; default: bench/subjects next to this one");

namespace mi7::bench {
namespace {

// Above this share, other work on the machine is worth a warning.
constexpr double kBusyShare = 0.10;
// A figure is a median of so many rounds at least.
constexpr int kRoundsMin = 9;

std::string DefaultProgramDirectory() {
  char path[PATH_MAX];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof(path));
  const std::string self(path, size > 0 ? static_cast<size_t>(size) : 0);
  return absl::StrCat(self.substr(0, self.rfind('/')), "/../subjects");
}

// Whether --only means row `id` with `wanted`.
bool Means(const std::string& wanted, const std::string& id) {
  if (absl::EndsWith(wanted, "$")) return id == wanted.substr(0, wanted.size() - 1);
  return absl::StartsWith(id, wanted);
}

// Keeps the rows that are meant, and of the charts what these rows measure.
void KeepOnly(Plan& plan, const std::vector<std::string>& only) {
  if (only.empty()) return;
  std::erase_if(plan.rows, [&](const Row& row) {
    return std::none_of(only.begin(), only.end(),
                        [&](const std::string& wanted) { return Means(wanted, row.id); });
  });
  std::set<std::pair<size_t, Placement>> measured;
  for (const Row& row : plan.rows) {
    for (Placement placement : row.placements) {
      measured.emplace(row.cell, placement);
      if (row.limit.has_value()) measured.emplace(*row.limit, placement);
    }
  }
  for (Chart& chart : plan.charts) {
    for (Chart::Series& series : chart.series) {
      std::erase_if(series.points, [&](const Chart::Point& point) {
        return !measured.contains({point.cell, chart.placement});
      });
    }
    std::erase_if(chart.series, [](const Chart::Series& series) { return series.points.empty(); });
  }
  std::erase_if(plan.charts, [](const Chart& chart) { return chart.series.empty(); });
}

// The share of the machine that others keep busy right now; warns when that is much.
double LookForOthers() {
  const MachineLoad load;
  absl::SleepFor(absl::Milliseconds(500));
  const double share = load.OthersShare();
  if (share >= kBusyShare) {
    std::printf(
        "Others keep %.0f%% of this machine busy. Ratios still mean something, because rounds are\n"
        "interleaved and medians taken; times and tails mean less.\n",
        100 * share);
  }
  return share;
}

// Tells what got worse; exit status 1 when something did, 2 when the files cannot be compared.
int Compare(const std::vector<char*>& arguments) {
  if (arguments.size() != 3) {
    std::fprintf(stderr, "--compare needs two files of --json: BEFORE AFTER\n");
    return 2;
  }
  const auto before = ReadResults(arguments[1]);
  const auto after = ReadResults(arguments[2]);
  for (const auto& file : {&before, &after}) {
    if (file->ok()) continue;
    std::fprintf(stderr, "%s\n", std::string(file->status().message()).c_str());
    return 2;
  }
  std::fputs(DescribeMismatch(*before, *after).c_str(), stderr);
  const std::string worse = DescribeWorse(*before, *after);
  std::fputs(worse.c_str(), stdout);
  return worse.empty() ? 0 : 1;
}

// A directory for what the subjects put into the file system, which their sudden end leaves there.
// It is removed by a process of its own, which outlives this one by a moment, however that ends:
// interrupted, or killed.
class RunDirectory {
 public:
  RunDirectory() {
    // In memory where there is such a place: slot pipes are files.
    const bool shm = ::access("/dev/shm", W_OK) == 0;
    std::string path = absl::StrCat(shm ? "/dev/shm" : "/tmp", "/mi7-bench-XXXXXX");
    if (::mkdtemp(path.data()) == nullptr) {
      std::fprintf(stderr, "cannot make %s: the rows over Unix sockets and shared memory fail\n",
                   path.c_str());
      return;
    }
    ::setenv("XDG_RUNTIME_DIR", path.c_str(), 1);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    remover_ = ::fork();
    if (remover_ == 0) {
      ::close(ends[1]);
      RemoveAfterEnd(path, ends[0]);
    }
    ::close(ends[0]);
    alive_ = ends[1];
  }
  ~RunDirectory() {
    if (remover_ <= 0) return;
    ::close(alive_);
    ::waitpid(remover_, nullptr, 0);
  }
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

 private:
  // `alive` ends when the other process does, and with it, a moment later, its subjects.
  [[noreturn]] static void RemoveAfterEnd(const std::string& path, int alive) {
    ::setsid();  // what the terminal sends is not for us
    char none;
    while (::read(alive, &none, 1) < 0 && errno == EINTR) {
    }
    constexpr int kTries = 40;
    std::error_code ignored;
    for (int i = 0; i < kTries && std::filesystem::exists(path, ignored); ++i) {
      if (i != 0) ::usleep(50'000);
      std::filesystem::remove_all(path, ignored);
    }
    ::_exit(0);
  }

  pid_t remover_ = -1;
  int alive_ = -1;
};

int Main() {
  const RunDirectory directory;
  const bool quick = absl::GetFlag(FLAGS_quick);
  const int rounds = absl::GetFlag(FLAGS_rounds);
  const absl::Duration measure = absl::GetFlag(FLAGS_measure);
  const int idle_connections = absl::GetFlag(FLAGS_idle_connections);
  if (rounds < 0 || idle_connections < 0) {
    std::fprintf(stderr, "--rounds and --idle_connections are not negative\n");
    return 2;
  }
  if (rounds > 0 && rounds < kRoundsMin) {
    std::printf("Fewer than %d rounds: medians of so few are no results.\n", kRoundsMin);
  }
  const std::vector<std::string> only = absl::GetFlag(FLAGS_only);
  PlanOptions plan_options = {.quick = quick, .all_rows = !quick || !only.empty()};
  plan_options.base.measure_ns = absl::ToInt64Nanoseconds(
      measure > absl::ZeroDuration() ? measure : absl::Milliseconds(quick ? 20 : 120));
  if (quick) plan_options.base.warmup_ns = 5'000'000;
  plan_options.idle_connections =
      idle_connections > 0 ? idle_connections : (quick ? 2'000 : 10'000);
  plan_options.local_connections = std::min(plan_options.idle_connections, 1'000);
  RunOptions options;
  options.rounds = rounds > 0 ? rounds : (quick ? 9 : 15);
  options.program_directory = absl::GetFlag(FLAGS_programs);
  if (options.program_directory.empty()) options.program_directory = DefaultProgramDirectory();
  options.compile_roots = absl::GetFlag(FLAGS_compile_roots);
  options.progress = stderr;
  for (const std::string& name : absl::GetFlag(FLAGS_placements)) {
    const std::optional<Placement> placement = ParsePlacement(name);
    if (!placement.has_value()) {
      std::fprintf(stderr, "--placements: '%s' is none of different, one, unpinned\n",
                   name.c_str());
      return 2;
    }
    options.placements.push_back(*placement);
  }
  Plan plan = MakePlan(plan_options);
  for (const std::string& wanted : only) {
    const bool known = std::any_of(plan.rows.begin(), plan.rows.end(),
                                   [&](const Row& row) { return Means(wanted, row.id); });
    if (known) continue;
    std::fprintf(stderr, "--only: no row's id begins with '%s'; bench/README.md lists them\n",
                 wanted.c_str());
    return 2;
  }
  KeepOnly(plan, only);
  // Now, and not when everything has been measured.
  for (const std::string& path : {absl::GetFlag(FLAGS_json), absl::GetFlag(FLAGS_html)}) {
    if (path.empty() || std::ofstream(path, std::ios::app)) continue;
    std::fprintf(stderr, "cannot write %s: %s\n", path.c_str(), std::strerror(errno));
    return 2;
  }

  RunNotes notes = {.machine = DescribeMachine(), .how = "", .others_share = 0};
  std::printf("%s\n", notes.machine.c_str());
  notes.others_share = LookForOthers();
  notes.how = absl::StrCat(options.rounds, " rounds of ", plan_options.base.measure_ns / 1'000'000,
                           " ms a run; every run has fresh processes; +- is half the middle half");
  std::printf("%s\n", notes.how.c_str());
  std::fflush(stdout);

  const absl::Time begin = absl::Now();
  const absl::StatusOr<RunResult> result = RunPlan(plan, options);
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
    return 1;
  }
  const std::vector<Figure> figures = Evaluate(plan, *result);
  std::fputs(ToTable(figures, *result).c_str(), stdout);
  absl::Status written;
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    written.Update(WriteResults(path, figures, {.quick = quick, .machine = MachineName()}));
  }
  if (const std::string path = absl::GetFlag(FLAGS_html); !path.empty()) {
    written.Update(WriteHtml(path, notes, plan, *result, figures));
  }
  if (!written.ok()) std::fprintf(stderr, "%s\n", std::string(written.message()).c_str());
  std::printf("\nMeasured for %s.\n",
              absl::FormatDuration(absl::Ceil(absl::Now() - begin, absl::Seconds(1))).c_str());
  return written.ok() ? 0 : 1;
}

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  absl::FlagsUsageConfig usage;
  // --help shows the flags of this file.
  usage.contains_help_flags = usage.contains_helpshort_flags = [](absl::string_view file) {
    return absl::EndsWith(file, "bench/harness/main.cc");
  };
  absl::SetFlagsUsageConfig(usage);
  absl::SetProgramUsageMessage("measures mi7, peers and limits side by side; see bench/README.md");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (absl::GetFlag(FLAGS_compare)) return mi7::bench::Compare(arguments);
  if (arguments.size() > 1) {
    std::fprintf(stderr, "'%s' is no option; see --help\n", arguments[1]);
    return 2;
  }
  return mi7::bench::Main();
}
