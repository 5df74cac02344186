#pragma once

// What is measured, what it is held against, and what is promised: the rows of the table, and the
// charts of the report.
//
// A Cell is a way to run a subject; rounds run every cell once at every placement. A Row is a
// figure of a cell, most often as a ratio to the same figure of another cell (its limit, or a
// peer). Rows and charts share cells, so nothing is run twice.

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "bench/harness/placement.h"
#include "bench/harness/workload.h"

namespace mi7::bench {

enum class Quantity {
  kP50,           // median latency of one call
  kP99,           // its 99th percentile
  kPerCall,       // time per call, with all outstanding ones in flight
  kCpuPerCall,    // CPU time per call, client and server together
  kCpuPerSide,    // of the side that took more
  kUnfairness,    // what the busiest one got done, divided by what the laziest one did
  kAllocations,   // per call, both sides together, like the next two
  kCopiedBytes,   // in user space
  kSystemCalls,   //
  kReceives,      // those of them that take from a socket, also in vain
  kSends,         // those that give to one
  kPolls,         // those that look whether anything can be received, or wait for it
  kCpuQuestions,  // those that ask whether somebody else wants the CPU
  kCpuOffers,     // those that offer it
  kClientSystemCalls,
  kServerSystemCalls,
  kClientBatch,      // messages that one of its sends gives to the socket
  kServerBatch,      //
  kBurstWakes,       // system calls of the client that wake somebody, per burst
  kBurstFutexWakes,  // those of them that wake a futex; the others write to a socket or an eventfd
  kStartUp,          // starting the server, plus starting the client until its first answer
  kIdleClient,       // user memory per idle connection, the larger of heap and resident
  kIdleServer,       //
  kIdleTogether,     // both sides, and the memory that they share
  kIdleWakeups,      // a second, both processes, all connections idle
  kProgramBytes,     // what is loaded of the subject's program
  kCompileTime,      // CPU time to compile the generated code of a subject
};

// Of cells whose processes or threads may be more than CPUs, the measured time of a run is so many
// times that of others: the scheduler moves them between CPUs, and gives turns, in pieces of
// several milliseconds, and what one of them got done in a few of those says nothing about the
// others.
inline constexpr int kSharedTimes = 8;

struct Cell {
  enum class Kind { kCalls, kIdleConnections, kProgram, kCompile };

  Kind kind = Kind::kCalls;
  std::string subject;  // its program's name; of kCompile the source to compile
  Workload workload = {};
  int clients = 1;  // processes
  int servers = 1;
  // With kCalls: besides those that make calls. With kIdleConnections: how many are measured.
  int idle_connections = 0;
  bool trace_system_calls = false;  // with ptrace, of a subject that does not count them itself
  int rounds_max = 0;               // what is counted and not timed needs fewer; 0: all
  // The server lives through the run, as one with idle connections does, which makes it as warm.
  // With kIdleConnections: so do they, and it is wakeups that are counted, from one round to the
  // next, instead of their memory.
  bool standing = false;
  // Where wakeups are counted: for so long at least.
  int watch_ms = 500;
  // The row beside which it is measured once more, because it is far from there otherwise.
  std::string copy_for = {};
};

// Whether both are the same way to run the same subject, so that one measurement serves both.
bool SameCell(const Cell& a, const Cell& b);

// What a row shows of calls unless it says otherwise: the median latency of one call outstanding,
// otherwise the time per call. Small copies are timed many together.
Quantity UsualQuantity(const Cell& cell);

struct Row {
  std::string id;    // of TARGETS.md ("T1"), with a suffix where a target has several rows
  std::string what;  // for people
  size_t cell = 0;
  Quantity quantity = Quantity::kP50;
  std::optional<size_t> limit = std::nullopt;  // cell
  // At most: a ratio to the limit, or a value where there is no limit.
  std::optional<double> target = std::nullopt;
  std::optional<double> target_one_cpu = std::nullopt;  // where it is another one there
  std::optional<double> stretch = std::nullopt;         // where we want to end
  std::optional<double> stretch_one_cpu = std::nullopt;
  std::vector<Placement> placements = {};
  bool detail = false;  // a point of a chart: not in the table
};

// A chart of the report; what it shows was measured at one placement.
struct Chart {
  enum class Kind {
    kDistribution,  // latencies by the share of calls that were faster
    kRate,          // calls per second
    kTime,          // of a call: the median latency, or the time per call with many outstanding
    kTail,          // its 99th percentile
    kCpu,           // CPU time of a call, client and server together
    kBandwidth,     // payload bytes per second, one way
  };
  struct Point {
    double x = 0;
    size_t cell = 0;
  };
  struct Series {
    std::string name;
    std::vector<Point> points;  // one, of any x, in a distribution
  };

  Kind kind = Kind::kTime;
  std::string title;
  std::string x_title;
  Placement placement = Placement::kUnpinned;
  std::vector<Series> series;
};

struct Plan {
  std::vector<Cell> cells;
  std::deque<Row> rows;  // references to rows stay valid while a plan is made
  std::vector<Chart> charts;
};

struct PlanOptions {
  Workload base = {};             // gives the times of a run
  bool quick = false;             // fewer points of charts
  bool all_rows = true;           // otherwise without those for which a quick run has no time
  int idle_connections = 10'000;  // of T5
  int local_connections = 1'000;  // of L8
};

// All rows this bench knows.
Plan MakePlan(const PlanOptions& options);

}  // namespace mi7::bench
