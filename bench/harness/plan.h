#pragma once

// What is measured, what it is held against, and what is promised: the rows of the table.
//
// A Cell is a way to run a subject; rounds run every cell once at every placement. A Row is a
// figure of a cell, most often as a ratio to the same figure of another cell (its limit, or a
// peer). Several rows share cells, so nothing is run twice.

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "bench/harness/placement.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

enum class Quantity {
  kP50,         // median latency of one call
  kP99,         // its 99th percentile
  kPerCall,     // time per call, with all outstanding ones in flight
  kCpuPerCall,  // CPU time per call, client and server together
  kCpuPerSide,  // half of that
  kIdleClient,  // user memory per idle connection, the larger of heap and resident
  kIdleServer,
};

struct Cell {
  std::string subject;  // its program's name
  Workload workload = {};
  bool idle_connections = false;  // measures memory instead of calls; unpinned only
};

struct Row {
  std::string id;    // of TARGETS.md ("T1"), with a suffix where a target has several rows
  std::string what;  // for people
  size_t cell = 0;
  Quantity quantity = Quantity::kP50;
  std::optional<size_t> limit = std::nullopt;  // cell
  std::optional<double> target =
      std::nullopt;  // at most: a ratio to the limit, or bytes for memory
  std::vector<Placement> placements = {};
};

struct Plan {
  std::vector<Cell> cells;
  std::vector<Row> rows;
};

// All rows this bench knows. `base` gives the times of a run.
Plan MakePlan(const Workload& base);

}  // namespace mi7::bench
