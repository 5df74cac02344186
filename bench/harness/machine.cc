#include "bench/harness/machine.h"

#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/harness/child_process.h"

namespace mi7::bench {
namespace {

double CpuSeconds(int who) {
  rusage usage;
  if (::getrusage(who, &usage) != 0) return 0;
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::string CpuModel() {
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  while (std::getline(info, line)) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  return "unknown CPU";
}

}  // namespace

std::string MachineName() {
  utsname system = {};
  ::uname(&system);
  return absl::StrCat(CpuModel(), ", ", std::thread::hardware_concurrency(), " CPUs, ",
                      system.sysname, " ", system.release);
}

std::string DescribeMachine() {
  double load[1] = {0};
  const int known = ::getloadavg(load, 1);
  return absl::StrCat(MachineName(), ", load ",
                      known == 1 ? absl::StrFormat("%.2f", load[0]) : std::string("unknown"));
}

MachineLoad::Times MachineLoad::Read() {
  Times times;
  std::ifstream stat("/proc/stat");
  std::string cpu;
  stat >> cpu;
  // user nice system idle iowait irq softirq steal; guest time is part of user time.
  for (int field = 0; field < 8; ++field) {
    double ticks = 0;
    stat >> ticks;
    const double seconds = ticks / static_cast<double>(::sysconf(_SC_CLK_TCK));
    times.total_s += seconds;
    if (field != 3 && field != 4) times.busy_s += seconds;
  }
  times.own_s =
      CpuSeconds(RUSAGE_SELF) + CpuSeconds(RUSAGE_CHILDREN) + ChildProcess::LivingCpuSeconds();
  return times;
}

MachineLoad::MachineLoad() : begin_(Read()) {}

double MachineLoad::OthersShare() const {
  const Times now = Read();
  const double total_s = now.total_s - begin_.total_s;
  if (total_s <= 0) return 0;
  const double others_s = (now.busy_s - begin_.busy_s) - (now.own_s - begin_.own_s);
  return std::clamp(others_s / total_s, 0.0, 1.0);
}

}  // namespace mi7::bench
