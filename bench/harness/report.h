#pragma once

// From samples to figures: the rows of a run, as a table for people.

#include <optional>
#include <string>
#include <vector>

#include "bench/harness/plan.h"
#include "bench/harness/runner.h"
#include "bench/harness/stats.h"

namespace mi7::bench {

// A row of the plan at one placement, evaluated.
struct Figure {
  std::string id;
  std::string what;
  Placement placement = Placement::kUnpinned;
  std::string unit;          // "ns", "bytes", "count", "1/s" or "x"
  std::string subject = {};  // the program whose figure it is
  // The row that shows by itself what this one is held against, at the same placement; empty where
  // there is none.
  std::string limit_row = {};
  Spread value;
  // What came out in each round, in their order, and its ratio to the limit of the same round;
  // nothing where it was not measured.
  std::vector<std::optional<double>> round_values = {};
  std::vector<std::optional<double>> round_ratios = {};
  std::optional<double> p99;            // median over the rounds, where the figure is a latency
  std::optional<double> bytes_per_s;    // of payload, where the figure is a message's time
  std::optional<double> client_cpu_ns;  // per call, median over the rounds
  std::optional<double> server_cpu_ns;
  std::optional<double> heap_bytes;  // of a memory figure, its parts, medians
  std::optional<double> resident_bytes;
  std::optional<double> shared_bytes;  // what both sides map, where the figure is of both
  std::optional<double> limit;         // median over the rounds
  // Of the rounds' own ratios: what disturbs the machine for seconds disturbs both and cancels.
  std::optional<Spread> ratio;
  std::optional<double> target;
  std::optional<double> stretch;  // where we want to end, as `target`
  bool absolute = false;          // the target is a value, not a ratio
  bool detail = false;            // not in the table
  std::optional<bool> met;
  // Others left the machine alone, and the rounds agree: the quartiles of what is compared with the
  // target (or of the value) are not further apart than a quarter of the median. Otherwise run
  // again on a quieter machine.
  bool stable = true;
  bool disturbed = false;          // others had more than a tenth of the machine
  double others_share = 0;         // of the machine, median over the rounds
  std::string missing;             // why there is no value
  std::string limit_missing = {};  // why there is a value and no ratio
};

// In the order of the plan, placement by placement.
std::vector<Figure> Evaluate(const Plan& plan, const RunResult& result);

// A table, ending with a line feed.
std::string ToTable(const std::vector<Figure>& figures, const RunResult& result);

// "83.4 us", "1.20 ms", "512 B", "0.25".
std::string HumanValue(double value, const std::string& unit);
// The parts of a memory figure: "heap 976 B, resident 1044 B"; nothing of other figures.
std::string MemoryText(const Figure& figure);
// "640 MB/s", "1.2 GB/s".
std::string HumanBandwidth(double bytes_per_s);

}  // namespace mi7::bench
