#pragma once

// Figures as JSON lines, to keep, and to compare two runs.

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/harness/report.h"

namespace mi7::bench {

// What a figure needs to be compared with one of another run.
struct RunKind {
  bool quick = false;
  std::string machine;  // MachineName()
};

// One JSON object on one line, without a line feed.
std::string ToJson(const Figure& figure, const RunKind& kind);

// Writes one line for each figure. UNAVAILABLE, naming the file.
absl::Status WriteResults(const std::string& path, const std::vector<Figure>& figures,
                          const RunKind& kind);

// What comparing needs of a line.
struct SavedFigure {
  std::string id;
  std::string placement;
  std::string unit;
  std::optional<double> value;
  std::optional<double> ratio;
  double spread = 0;
  double ratio_spread = 0;
  std::optional<bool> met;
  std::string quick;    // "true" or "false"; empty in files of older versions
  std::string machine;  // empty likewise
};

// INVALID_ARGUMENT naming what is wrong: not an object as ToJson makes them.
absl::StatusOr<SavedFigure> ParseFigure(std::string_view line);

// NOT_FOUND, or INVALID_ARGUMENT naming file and line.
absl::StatusOr<std::vector<SavedFigure>> ReadResults(const std::string& path);

// What lets both not be compared well (a quick run and a full one, two machines), a line each.
std::string DescribeMismatch(const std::vector<SavedFigure>& before,
                             const std::vector<SavedFigure>& after);

// What got worse from `before` to `after`, a line each, empty when nothing did: a figure that grew
// by more than a tenth and by more than its rounds differ among themselves; a target that is missed
// now; a figure that is not there any more. Ratios are compared where there are any, because
// absolute figures change with the machine.
std::string DescribeWorse(const std::vector<SavedFigure>& before,
                          const std::vector<SavedFigure>& after);

}  // namespace mi7::bench
