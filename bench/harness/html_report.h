#pragma once

// A run as one HTML file that needs no other: its table and its charts.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "bench/harness/plan.h"
#include "bench/harness/report.h"
#include "bench/harness/runner.h"

namespace mi7::bench {

// What a reader must know of the run.
struct RunNotes {
  std::string machine;
  std::string how;          // rounds and times
  double others_share = 0;  // of the machine, before the run
};

std::string ToHtml(const RunNotes& notes, const Plan& plan, const RunResult& result,
                   const std::vector<Figure>& figures);

// UNAVAILABLE, naming the file.
absl::Status WriteHtml(const std::string& path, const RunNotes& notes, const Plan& plan,
                       const RunResult& result, const std::vector<Figure>& figures);

}  // namespace mi7::bench
