// The plan keeps what the project's targets (TARGETS.md) promise, row by row.

#include "bench/harness/plan.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bench/harness/measure.h"
#include "bench/harness/workload.h"
#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

enum class Kind { kRatio, kValue };

// What TARGETS.md says: the figure of row `id` is at most so much.
struct Promised {
  const char* id;
  Kind kind;
  double at_most;
  std::optional<double> at_most_one_cpu = std::nullopt;
};

// "Throughput does not fall" (L9): by no more than two runs of the same differ.
constexpr double kNoFall = 1.05;

const std::vector<Promised>& Promises() {
  static const auto* promises = new std::vector<Promised>{
      {"L1", Kind::kRatio, 1.5},
      {"L1.p99", Kind::kRatio, 2},
      {"L2", Kind::kRatio, 1.10},
      {"L3", Kind::kRatio, 1.10},
      {"L3.syscalls", Kind::kValue, 0},
      {"L3.wakes", Kind::kValue, 1},
      {"L4", Kind::kRatio, 3},
      {"L5", Kind::kRatio, 1.3},
      {"L5.16MiB", Kind::kRatio, 1.3},
      {"L6", Kind::kRatio, 1.10},
      {"L6.16MiB", Kind::kRatio, 1.10},
      {"L7", Kind::kValue, 150},
      {"L7.allocations", Kind::kValue, 0},
      {"L7.copied", Kind::kValue, 0},
      {"L7.copied.32", Kind::kValue, 0},
      {"L8", Kind::kRatio, 1.05},
      {"L8.p99", Kind::kRatio, 1.2},
      {"L8.idle", Kind::kValue, 8192},
      {"L8.wakeups", Kind::kValue, 0},
      {"L9", Kind::kRatio, kNoFall},
      {"L9.fair", Kind::kValue, 2},
      {"L9.processes", Kind::kRatio, kNoFall},
      {"L9.processes.fair", Kind::kValue, 2},
      {"T1", Kind::kRatio, 1.10},
      {"T2", Kind::kRatio, 1.15},
      {"T3", Kind::kRatio, 1.6},
      {"T3.spinning", Kind::kRatio, 1.6},
      {"T3.adaptive", Kind::kRatio, 1.6},
      {"T4", Kind::kRatio, 1.10},
      {"T4.16MiB", Kind::kRatio, 1.10},
      {"T5", Kind::kRatio, 1.05},
      {"T5.p99", Kind::kRatio, 1.2},
      {"T5.idle.server", Kind::kValue, 1024},
      {"T5.idle.client", Kind::kValue, 1024},
      {"V1", Kind::kRatio, 1.0 / 50, 1.0 / 10},
      {"V1.grpc_callback", Kind::kRatio, 1.0 / 50, 1.0 / 10},
      {"V1.capnp", Kind::kRatio, 1.0 / 25, 1.0 / 6},
      {"V2", Kind::kRatio, 1.0 / 50},
      {"V2.grpc_sync", Kind::kRatio, 1.0 / 50},
      {"V2.capnp", Kind::kRatio, 1.0 / 25},
      {"V2.thrift", Kind::kRatio, 1.0 / 5},
      {"V2.zeromq", Kind::kRatio, 1.0 / 5},
      {"V2.nng", Kind::kRatio, 1.0 / 5},
      {"V2.boost", Kind::kRatio, 1.0 / 5},
      {"V3", Kind::kRatio, 1.3},
      {"V3.1MiB", Kind::kRatio, 1.3},
      {"V3.iceoryx", Kind::kRatio, 1.0 / 5},
      {"V3.iceoryx.1MiB", Kind::kRatio, 1.0 / 5},
      {"V4", Kind::kRatio, 1},
      {"V4.grpc_callback", Kind::kRatio, 1},
      {"V4.capnp", Kind::kRatio, 1},
      {"V4.brpc", Kind::kRatio, 1},
      {"V4.thrift", Kind::kRatio, 1},
      {"V4.zeromq", Kind::kRatio, 1},
      {"V4.nng", Kind::kRatio, 1},
      {"V4.adaptive", Kind::kRatio, 1.0 / 5},
      {"V4.adaptive.grpc_callback", Kind::kRatio, 1.0 / 5},
      {"V4.adaptive.capnp", Kind::kRatio, 1.0 / 5},
      {"V4.adaptive.brpc", Kind::kRatio, 1.0 / 5},
      {"V4.adaptive.thrift", Kind::kRatio, 1.0 / 5},
      {"V4.adaptive.zeromq", Kind::kRatio, 1.0 / 5},
      {"V4.adaptive.nng", Kind::kRatio, 1.0 / 5},
      {"V5", Kind::kRatio, 1.0 / 4},
      {"V5.grpc_sync", Kind::kRatio, 1.0 / 4},
      {"V5.capnp", Kind::kRatio, 1.0 / 4},
      {"V5.brpc", Kind::kRatio, 1.0 / 4},
      {"V5.zeromq", Kind::kRatio, 1.0 / 1.2},
      {"V5.thrift", Kind::kRatio, 1},
      {"V5.nng", Kind::kRatio, 1},
      {"V5.raw", Kind::kRatio, 1},
      {"V6", Kind::kRatio, 1},
      {"V6.grpc_callback", Kind::kRatio, 1},
      {"V6.capnp", Kind::kRatio, 1},
      {"V6.brpc", Kind::kRatio, 1},
      {"V6.thrift", Kind::kRatio, 1},
      {"V6.zeromq", Kind::kRatio, 1},
      {"V6.nng", Kind::kRatio, 1},
      {"V6.16MiB", Kind::kRatio, 1},
      {"V6.16MiB.grpc_callback", Kind::kRatio, 1},
      {"V6.16MiB.capnp", Kind::kRatio, 1},
      {"V6.16MiB.brpc", Kind::kRatio, 1},
      {"V6.16MiB.thrift", Kind::kRatio, 1},
      {"V6.16MiB.zeromq", Kind::kRatio, 1},
      {"V6.16MiB.nng", Kind::kRatio, 1},
      {"V7", Kind::kRatio, 1},
      {"S1", Kind::kValue, 100},
      {"S2", Kind::kRatio, 2.5},
      {"S3", Kind::kRatio, 3},
      {"S4", Kind::kRatio, 2},
      {"S4.fair", Kind::kValue, 2},
      {"S4.4x4", Kind::kRatio, 2},
      {"S4.4x4.fair", Kind::kValue, 2},
      {"S5", Kind::kRatio, 1.2},
  };
  return *promises;
}

// Every plan there is a way to ask for.
std::vector<PlanOptions> AllOptions() {
  std::vector<PlanOptions> all;
  for (bool quick : {false, true}) {
    for (bool all_rows : {false, true}) {
      for (int idle : {128, 2'000, 10'000}) {
        all.push_back({.quick = quick,
                       .all_rows = all_rows,
                       .idle_connections = idle,
                       .local_connections = std::min(idle, 1'000)});
      }
    }
  }
  return all;
}

std::map<std::string, const Row*> ById(const Plan& plan) {
  std::map<std::string, const Row*> rows;
  for (const Row& row : plan.rows) rows[row.id] = &row;
  return rows;
}

TEST(PlanTest, EveryTargetHasItsRowAlsoInAQuickRun) {
  for (const PlanOptions& options : AllOptions()) {
    const Plan plan = MakePlan(options);
    const auto rows = ById(plan);
    for (const Promised& promised : Promises()) {
      ASSERT_TRUE(rows.contains(promised.id)) << promised.id;
      const Row& row = *rows.at(promised.id);
      ASSERT_TRUE(row.target.has_value()) << row.id;
      EXPECT_DOUBLE_EQ(*row.target, promised.at_most) << row.id;
      EXPECT_EQ(row.target_one_cpu, promised.at_most_one_cpu) << row.id;
      EXPECT_EQ(row.limit.has_value(), promised.kind == Kind::kRatio) << row.id;
      EXPECT_FALSE(row.detail) << row.id;
    }
    for (const auto& [letter, last] : std::map<char, int>{{'L', 9}, {'T', 5}, {'V', 7}, {'S', 5}}) {
      for (int number = 1; number <= last; ++number) {
        const std::string id = std::string(1, letter) + std::to_string(number);
        EXPECT_TRUE(rows.contains(id)) << id;
      }
    }
  }
}

// V7: "lower than every peer in every row above".
TEST(PlanTest, CpuTimeIsHeldAgainstEveryPeerToo) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  int held = 0;
  for (const Row& row : plan.rows) {
    const bool above = row.id[0] == 'V' && row.id[1] != '7' && row.target.has_value() &&
                       row.limit.has_value() &&
                       plan.cells[*row.limit].subject.rfind("raw_", 0) != 0;
    if (!above) continue;
    ++held;
    ASSERT_TRUE(rows.contains("V7." + row.id)) << row.id;
    const Row& cpu = *rows.at("V7." + row.id);
    EXPECT_EQ(cpu.quantity, Quantity::kCpuPerCall) << row.id;
    EXPECT_EQ(cpu.limit, row.limit) << row.id;
    EXPECT_EQ(cpu.target, 1.0) << row.id;
    EXPECT_EQ(cpu.placements, row.placements) << row.id;
  }
  EXPECT_GT(held, 40);
}

// "Client and server on different CPUs, on one CPU, and unpinned."
TEST(PlanTest, WhatIsPromisedForOneCpuIsMeasuredThere) {
  const Plan plan = MakePlan({});
  const std::set<Placement> all = {Placement::kDifferentCpus, Placement::kOneCpu,
                                   Placement::kUnpinned};
  int promised = 0;
  for (const Row& row : plan.rows) {
    if (!row.target_one_cpu.has_value()) continue;
    ++promised;
    EXPECT_EQ(std::set<Placement>(row.placements.begin(), row.placements.end()), all) << row.id;
  }
  EXPECT_EQ(promised, 3);
}

// The figures in brackets.
TEST(PlanTest, EveryStretchIsThere) {
  const std::map<std::string, double> stretches = {{"L1", 1.25},
                                                   {"L4", 2},
                                                   {"L6", 1.05},
                                                   {"L6.16MiB", 1.05},
                                                   {"L7", 80},
                                                   {"T1", 1.05},
                                                   {"T2", 1.08},
                                                   {"T3", 1.3},
                                                   {"V1", 1.0 / 100},
                                                   {"V4.adaptive", 1.0 / 8},
                                                   {"V1.capnp", 1.0 / 50},
                                                   {"S1", 60},
                                                   {"S2", 2},
                                                   {"S3", 2}};
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  for (const auto& [id, stretch] : stretches) {
    ASSERT_TRUE(rows.at(id)->stretch.has_value()) << id;
    EXPECT_DOUBLE_EQ(*rows.at(id)->stretch, stretch) << id;
    EXPECT_LT(stretch, *rows.at(id)->target) << id;
  }
}

// They would measure the scheduler's time slice.
TEST(PlanTest, NothingThatSpinsIsMeasuredOnOneCpu) {
  const Plan plan = MakePlan({});
  const auto spins = [&](size_t cell) {
    return plan.cells[cell].workload.waiting == Waiting::kSpinning;
  };
  int of_both = 0;
  for (const Row& row : plan.rows) {
    const bool spinning = spins(row.cell) || (row.limit.has_value() && spins(*row.limit));
    const bool one_cpu = std::find(row.placements.begin(), row.placements.end(),
                                   Placement::kOneCpu) != row.placements.end();
    EXPECT_FALSE(spinning && one_cpu) << row.id;
    of_both += !spinning && one_cpu ? 1 : 0;
  }
  EXPECT_GT(of_both, 20) << "the others are";
}

// One call outstanding a thread is all that gRPC's synchronous API can do.
TEST(PlanTest, APeerThatBlocksHasAThreadForEachCallOutstanding) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  for (const char* id : {"V2.grpc_sync", "V5.grpc_sync"}) {
    const Row& row = *rows.at(id);
    const Workload& peers = plan.cells[row.limit.value()].workload;
    EXPECT_EQ(peers.threads, 64) << id;
    EXPECT_EQ(peers.outstanding, 1) << id;
    EXPECT_EQ(plan.cells[row.cell].workload.outstanding, 64) << id;
    EXPECT_EQ(row.quantity, Quantity::kPerCall) << id;
  }
}

// The median alone hides what a crowd costs.
TEST(PlanTest, ConnectionsHaveChartsOfLatencyItsTailAndCpuTime) {
  const Plan plan = MakePlan({});
  std::vector<const Chart*> charts;
  for (const Chart& chart : plan.charts) {
    if (chart.x_title == "connections") charts.push_back(&chart);
  }
  ASSERT_EQ(charts.size(), 3u);
  EXPECT_EQ(charts[0]->kind, Chart::Kind::kTime);
  EXPECT_EQ(charts[1]->kind, Chart::Kind::kTail);
  EXPECT_EQ(charts[2]->kind, Chart::Kind::kCpu);
  for (const Chart* chart : charts) {
    ASSERT_EQ(chart->series.size(), 3u) << "tcp, unix and shm";
    for (size_t i = 0; i < 3; ++i) {
      ASSERT_EQ(chart->series[i].points.size(), charts[0]->series[i].points.size());
      for (size_t p = 0; p < chart->series[i].points.size(); ++p) {
        EXPECT_EQ(chart->series[i].points[p].cell, charts[0]->series[i].points[p].cell);
      }
    }
  }
}

// What waits for calls in the same way has the same: a warm server.
TEST(PlanTest, TheCrowdIsHeldAgainstAServerThatIsAsWarm) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  for (const char* id : {"L8", "L8.p99", "T5", "T5.p99"}) {
    const Cell& alone = plan.cells[rows.at(id)->limit.value()];
    EXPECT_TRUE(alone.standing) << id;
    EXPECT_EQ(alone.idle_connections, 0) << id;
  }
}

TEST(PlanTest, WakeupsAreWatchedThroughAllRoundsForLongButInAQuickRun) {
  for (const PlanOptions& options : AllOptions()) {
    const Plan plan = MakePlan(options);
    const auto rows = ById(plan);
    for (const char* id : {"L8.wakeups", "T5.wakeups"}) {
      const Cell& cell = plan.cells[rows.at(id)->cell];
      EXPECT_EQ(cell.watch_ms >= 6000, !options.quick) << id;
      EXPECT_TRUE(cell.standing) << id;
      EXPECT_EQ(cell.rounds_max, 0) << id;
    }
  }
}

// A quick run has time for what is promised.
TEST(PlanTest, AQuickRunCountsAndBuildsOnlyWhatATargetNeeds) {
  const Plan plan = MakePlan({.quick = true, .all_rows = false});
  for (const Row& row : plan.rows) {
    if (row.detail || row.target.has_value()) continue;
    const bool timed = row.quantity == Quantity::kP50 || row.quantity == Quantity::kPerCall ||
                       row.quantity == Quantity::kCpuPerCall;
    const bool peers_memory =
        row.quantity == Quantity::kIdleServer || row.quantity == Quantity::kIdleClient;
    EXPECT_TRUE(timed || peers_memory) << row.id;
    EXPECT_NE(row.id.rfind("methods.", 0), 0u) << row.id;
  }
}

// A median needs nine.
TEST(PlanTest, WhatIsCountedOfCallsAndEveryTargetHasNineRounds) {
  const Plan plan = MakePlan({});
  int targets = 0;
  for (const Row& row : plan.rows) {
    const Cell& cell = plan.cells[row.cell];
    if (cell.kind != Cell::Kind::kCalls && !row.target.has_value()) continue;
    EXPECT_TRUE(cell.rounds_max == 0 || cell.rounds_max >= 9) << row.id;
    targets += row.target.has_value() ? 1 : 0;
  }
  EXPECT_GT(targets, 100);
}

TEST(PlanTest, AServerOfMoreMethodsHasACurve) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  const Chart* chart = nullptr;
  for (const Chart& each : plan.charts) {
    if (each.x_title == "methods registered") chart = &each;
  }
  ASSERT_NE(chart, nullptr);
  for (const Chart::Point& point : chart->series.at(0).points) {
    EXPECT_EQ(rows.at("methods." + std::to_string(static_cast<int>(point.x)))->cell, point.cell);
  }
  EXPECT_EQ(chart->series[0].points.front().x, 1);
  EXPECT_EQ(chart->series[0].points.back().x, 10'000);
}

// Who looks for it finds it.
TEST(PlanTest, APeerThatCannotBeInstalledIsThereByName) {
  const auto options = AllOptions();
  for (const PlanOptions& each : options) {
    const Plan plan = MakePlan(each);
    const auto rows = ById(plan);
    for (const char* id : {"brpc.tcp", "V4.brpc", "V5.brpc", "V6.brpc", "V7.V5.brpc"}) {
      EXPECT_TRUE(rows.contains(id)) << id;
    }
  }
}

TEST(PlanTest, AnIdIsOfOneRow) {
  for (const PlanOptions& options : AllOptions()) {
    std::set<std::string> ids;
    for (const Row& row : MakePlan(options).rows) {
      EXPECT_TRUE(ids.insert(row.id).second) << row.id << " is there twice";
    }
  }
}

TEST(PlanTest, EveryPlanHoldsTogether) {
  for (const PlanOptions& options : AllOptions()) {
    const Plan plan = MakePlan(options);
    for (const Row& row : plan.rows) {
      EXPECT_FALSE(row.id.empty() || row.what.empty()) << row.id << ": " << row.what;
      // Those of charts are named as the charts' series.
      EXPECT_TRUE(row.detail || row.id.find_first_of(" ,") == std::string::npos)
          << row.id << " cannot be asked for with --only";
      EXPECT_FALSE(row.placements.empty()) << row.id;
      ASSERT_LT(row.cell, plan.cells.size()) << row.id;
      if (!row.limit.has_value()) continue;
      ASSERT_LT(*row.limit, plan.cells.size()) << row.id;
      EXPECT_NE(*row.limit, row.cell) << row.id << " is held against itself";
    }
    for (const Chart& chart : plan.charts) {
      EXPECT_FALSE(chart.series.empty()) << chart.title;
      for (const Chart::Series& series : chart.series) {
        EXPECT_FALSE(series.points.empty()) << chart.title << ": " << series.name;
        for (const Chart::Point& point : series.points) {
          ASSERT_LT(point.cell, plan.cells.size()) << chart.title << ": " << series.name;
        }
      }
    }
  }
}

TEST(PlanTest, EveryCellCanBeAskedOfASubject) {
  for (const Cell& cell : MakePlan({}).cells) {
    const std::string text = cell.workload.Encode();
    EXPECT_FALSE(cell.subject.empty()) << text;
    const auto workload = Workload::Decode(text);
    ASSERT_TRUE(workload.ok()) << text << ": " << workload.status();
    EXPECT_EQ(*workload, cell.workload) << text;
    for (int processes : {cell.clients, cell.servers}) {
      EXPECT_GE(processes, 1) << cell.subject << " " << text;
      EXPECT_LE(processes, static_cast<int>(Scratch::kProcessesMax)) << cell.subject << " " << text;
    }
  }
}

TEST(PlanTest, AQuickRunLeavesRowsOut) {
  EXPECT_LT(MakePlan({.quick = true, .all_rows = false}).rows.size(),
            MakePlan({.quick = true}).rows.size());
}

}  // namespace
}  // namespace mi7::bench
