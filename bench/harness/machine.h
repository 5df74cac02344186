#pragma once

// What a figure needs to be read: which machine it is from, and how busy others kept it meanwhile.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace mi7::bench {

// "Intel(R) Xeon(R) Processor, 2 CPUs, Linux 6.1.0".
std::string MachineName();
// The same, and how busy it is: "..., load 0.42".
std::string DescribeMachine();

// Watches how much of the machine went to work that is not ours while something ran. The kernel
// counts in ticks (1 to 10 ms), so a short stretch gives a rough share. Not thread-safe.
class MachineLoad {
 public:
  // The stretch begins now.
  MachineLoad();
  // Share (0 to 1) of all CPUs' time that other processes and the hypervisor took since then. The
  // time of this process and of its children, living or reaped, counts as ours.
  double OthersShare() const;

 private:
  struct Times {
    double busy_s = 0;   // all CPUs, all processes, time stolen by the hypervisor included
    double total_s = 0;  // busy and idle
    double own_s = 0;    // this process, its reaped children, and its living ChildProcesses
  };
  static Times Read();

  const Times begin_;
};

}  // namespace mi7::bench
