#pragma once

// Puts a plan together. Cells that are compared are added next to each other, so that they are
// measured close in time. Adding the same cell again gives the one that is there.

#include <cstddef>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "bench/harness/plan.h"

namespace mi7::bench {

// What is counted and not timed has no more rounds than a median needs, nor has what is timed to be
// seen beside others.
inline constexpr int kCountedRounds = 9;

// "64 B", "4 KiB", "1 MiB".
std::string SizeName(size_t bytes);
// As a part of an id: "64B", "1MiB".
std::string SizeId(size_t bytes);

// Not thread-safe.
class PlanBuilder {
 public:
  static constexpr size_t kMebibyte = size_t{1} << 20;
  // A typed call of 8 bytes on the wire: header of 32, segment table, root pointer and the value.
  static constexpr size_t kTypedFrameBytes = 56;

  explicit PlanBuilder(const PlanOptions& options) : options_(options) {}

  const PlanOptions& options() const { return options_; }

  // --- Cells. The short forms are calls of 8 bytes there and back.
  size_t AddCell(Cell cell);
  size_t AddNumber(const std::string& subject, const char* transport, Waiting waiting,
                   int outstanding);
  // The same as `cell`, measured once more next to what is added now, for row `id`.
  size_t AddCopy(size_t cell, const std::string& id);
  // payload_bytes there and back.
  size_t AddEcho(const std::string& subject, const char* transport, Waiting waiting,
                 int outstanding, size_t payload_bytes);
  // One copy of so many bytes in private memory; to be seen as row "raw.memcpy.SIZE".
  size_t AddMemcpy(size_t bytes);
  // A cell of calls with the times of this run.
  Cell Calls(const std::string& subject, const char* transport, Waiting waiting,
             int outstanding) const;

  // --- Rows. The figure is the median latency, with many outstanding the time per call.
  // To be seen: a limit or a peer.
  Row& Show(const std::string& id, const std::string& what, size_t cell);
  Row& Show(const std::string& id, const std::string& what, size_t cell, Quantity quantity);
  // Has to be at most `target` times that of `limit`.
  Row& Promise(const std::string& id, const std::string& what, size_t cell, size_t limit,
               double target);
  Row& Promise(const std::string& id, const std::string& what, size_t cell, size_t limit,
               double target, Quantity quantity);
  // Has to be at most `target`, a value.
  Row& PromiseValue(const std::string& id, const std::string& what, size_t cell, double target,
                    Quantity quantity);

  // Whether there is a row of that id.
  bool Has(const std::string& id) const;

  // --- Charts.
  // Starts one; what follows belongs to it.
  Chart& AddChart(Chart::Kind kind, const std::string& title, const std::string& x_title,
                  Placement placement);
  // Adds a point to the last chart, and a row of detail for it unless `id` is empty or there.
  void AddPoint(const std::string& series, double x, size_t cell, const std::string& id);

  // The plan, without what would measure two that spin on one CPU.
  Plan Take();

 private:
  const PlanOptions options_;
  Plan plan_;
};

// Rounds of the memory of idle connections, of which it takes seconds to open thousands: as many as
// a median needs, in a quick run three.
int MemoryRounds(const PlanBuilder& plan);

// `idle` through all rounds, watched for long enough in each that timers of several seconds would
// be seen, which takes no time where a round takes as long; in a quick run for as long as it is.
Cell Watched(const PlanBuilder& plan, Cell idle);

// The parts of the plan.
void AddTcp(PlanBuilder& plan);       // T
void AddLocal(PlanBuilder& plan);     // L
void AddPeers(PlanBuilder& plan);     // V
void AddSlotPipe(PlanBuilder& plan);  // S
void AddStreams(PlanBuilder& plan);   // messages that nobody answers
void AddSystemCalls(PlanBuilder& plan);
void AddCounts(PlanBuilder& plan);  // what else is counted, start-up, sizes
void AddCurves(PlanBuilder& plan);  // the charts

}  // namespace mi7::bench
