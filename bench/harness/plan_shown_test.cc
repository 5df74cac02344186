// What the plan measures beside the rows of the project's targets, to be seen.

#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bench/harness/plan.h"
#include "bench/harness/workload.h"
#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

std::map<std::string, const Row*> ById(const Plan& plan) {
  std::map<std::string, const Row*> rows;
  for (const Row& row : plan.rows) rows[row.id] = &row;
  return rows;
}

// What the scheduler does with ends that may choose their CPU is told from what the library does.
TEST(PlanShownTest, ZeromqIsHeldAgainstWhereBothArePlacedToo) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  for (const std::string id : {"V6.zeromq", "V7.V6.zeromq"}) {
    const Row& unpinned = *rows.at(id);
    const Row& pinned = *rows.at(id + ".pinned");
    EXPECT_EQ(unpinned.placements, std::vector<Placement>{Placement::kUnpinned});
    EXPECT_EQ(std::set<Placement>(pinned.placements.begin(), pinned.placements.end()),
              (std::set<Placement>{Placement::kDifferentCpus, Placement::kOneCpu}));
    EXPECT_EQ(pinned.target, std::nullopt);
    EXPECT_EQ(pinned.quantity, unpinned.quantity);
    for (const auto& [is, was] : {std::pair(pinned.cell, unpinned.cell),
                                  std::pair(pinned.limit.value(), unpinned.limit.value())}) {
      EXPECT_EQ(plan.cells[is].subject, plan.cells[was].subject);
      EXPECT_EQ(plan.cells[is].workload, plan.cells[was].workload);
      EXPECT_EQ(plan.cells[is].rounds_max, 9);
    }
  }
}

// Every transport with every way to wait, one outstanding and 64.
TEST(PlanShownTest, EveryWayToWaitIsMeasuredOverEachTransport) {
  const Plan plan = MakePlan({});
  std::set<std::tuple<std::string, Waiting, int>> measured;
  for (const Row& row : plan.rows) {
    const Cell& cell = plan.cells[row.cell];
    if (cell.subject == "mi7" && row.quantity == UsualQuantity(cell)) {
      measured.emplace(cell.workload.transport, cell.workload.waiting, cell.workload.outstanding);
    }
  }
  for (const char* transport : {"shm", "unix", "tcp", "inproc"}) {
    for (Waiting waiting : {Waiting::kBlocking, Waiting::kSpinning, Waiting::kDefault}) {
      for (int outstanding : {1, 64}) {
        // 32 is what its limit is asked for with, and its targets.
        const bool ring =
            transport == std::string("shm") && outstanding == 64 && waiting != Waiting::kBlocking;
        EXPECT_TRUE(measured.contains({transport, waiting, ring ? 32 : outstanding}))
            << transport << " " << WaitingName(waiting) << " x" << outstanding;
      }
    }
  }
}

TEST(PlanShownTest, AMessageOfAStreamIsAnsweredOverEachTransport) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  for (const char* transport : {"shm", "unix", "tcp", "inproc"}) {
    for (int outstanding : {1, 64}) {
      const std::string id =
          std::string("streams.") + transport + (outstanding == 1 ? ".echo" : ".echo.64");
      ASSERT_TRUE(rows.contains(id)) << id;
      const Cell& cell = plan.cells[rows.at(id)->cell];
      EXPECT_EQ(cell.workload.call, Call::kStreamEcho) << id;
      EXPECT_EQ(cell.workload.outstanding, outstanding) << id;
      EXPECT_EQ(rows.at(id)->quantity, outstanding == 1 ? Quantity::kP50 : Quantity::kPerCall);
      EXPECT_EQ(plan.cells[rows.at(id)->limit.value()].workload.call, Call::kEcho) << id;
    }
  }
}

TEST(PlanShownTest, SystemCallsAreCountedWithinAProcessToo) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  for (const char* id :
       {"syscalls.inproc.adaptive", "syscalls.inproc.blocking", "syscalls.inproc.spinning",
        "syscalls.inproc.adaptive.64", "streams.inproc.syscalls"}) {
    ASSERT_TRUE(rows.contains(id)) << id;
    EXPECT_EQ(rows.at(id)->quantity, Quantity::kSystemCalls) << id;
    EXPECT_EQ(plan.cells[rows.at(id)->cell].workload.transport, "inproc") << id;
  }
}

TEST(PlanShownTest, SeveralThreadsAndProcessesCallOverEachTransport) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  for (const char* id : {"L9", "threads.tcp", "threads.unix", "threads.inproc"}) {
    EXPECT_EQ(plan.cells[rows.at(id)->cell].workload.threads, 4) << id;
  }
  for (const char* id : {"L9.processes", "processes.tcp", "processes.unix"}) {
    EXPECT_EQ(plan.cells[rows.at(id)->cell].clients, 4) << id;
  }
}

// A system call a side tells where a call's time goes; of many outstanding, how many share one.
TEST(PlanShownTest, SystemCallsAreCountedOfLimitsAndAPeerToo) {
  const Plan plan = MakePlan({});
  const auto rows = ById(plan);
  const auto subject = [&](const std::string& id) {
    return rows.contains(id) ? plan.cells[rows.at(id)->cell].subject : "no row " + id;
  };
  for (const auto& [id, program] :
       std::map<std::string, std::string>{{"syscalls.tcp.blocking", "mi7_counting"},
                                          {"syscalls.tcp.adaptive", "mi7_counting"},
                                          {"syscalls.tcp.spinning", "mi7_counting"},
                                          {"syscalls.raw.tcp.blocking", "raw_tcp_counting"},
                                          {"syscalls.raw.tcp.spinning", "raw_tcp_counting"},
                                          {"syscalls.thrift.tcp", "thrift_counting"}}) {
    EXPECT_EQ(subject(id), program);
    EXPECT_EQ(subject(id + ".client"), program);
    EXPECT_EQ(subject(id + ".server"), program);
  }
  for (const auto& [id, program] : std::map<std::string, std::string>{
           {"syscalls.tcp.blocking.64", "mi7_counting"},
           {"syscalls.tcp.adaptive.64", "mi7_counting"},
           {"syscalls.tcp.spinning.64", "mi7_counting"},
           {"syscalls.raw.tcp.batch.blocking", "raw_tcp_batch_counting"},
           {"syscalls.raw.tcp.batch.spinning", "raw_tcp_batch_counting"}}) {
    for (const char* figure : {"", ".receives", ".sends", ".batch.client", ".batch.server"}) {
      EXPECT_EQ(subject(id + figure), program);
    }
    EXPECT_EQ(plan.cells[rows.at(id)->cell].workload.outstanding, 64) << id;
  }
  // As large as those of T1 to T3 are.
  EXPECT_EQ(plan.cells[rows.at("syscalls.raw.tcp.blocking")->cell].workload.payload_bytes,
            plan.cells[rows.at("T1")->limit.value()].workload.payload_bytes);
}

TEST(PlanShownTest, ACopyOfEachSizeThatIsHeldAgainstHasARow) {
  const Plan plan = MakePlan({});
  std::set<size_t> shown;
  for (const Row& row : plan.rows) {
    if (!row.detail && row.id.rfind("raw.memcpy.", 0) == 0) shown.insert(row.cell);
  }
  EXPECT_GE(shown.size(), 9u);
  for (size_t cell = 0; cell < plan.cells.size(); ++cell) {
    if (plan.cells[cell].subject != "raw_memcpy") continue;
    EXPECT_TRUE(shown.contains(cell)) << plan.cells[cell].workload.payload_bytes << " bytes";
  }
}

}  // namespace
}  // namespace mi7::bench
