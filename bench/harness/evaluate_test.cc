#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/plan.h"
#include "bench/harness/report.h"
#include "bench/harness/runner.h"
#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

// A subject (cell 0) held against a limit (cell 1) with a target of 1.2, unpinned only.
class EvaluateTest : public ::testing::Test {
 protected:
  EvaluateTest() {
    plan_.cells = {Cell{.subject = "subject"}, Cell{.subject = "limit"}};
    Row row = {.id = "X1", .what = "subject / limit"};
    row.cell = 0;
    row.limit = 1;
    row.target = 1.2;
    row.placements = {Placement::kUnpinned};
    plan_.rows = {row};
    result_.cpus[Placement::kUnpinned] = {};
  }

  void AddRound(double subject_ns, double limit_ns) {
    for (size_t cell : {0, 1}) {
      Sample sample;
      sample.calls.latencies_ns[kMedianShare] = cell == 0 ? subject_ns : limit_ns;
      result_.cells[{cell, Placement::kUnpinned}].rounds.emplace_back(sample);
    }
  }

  Figure Evaluated() { return Evaluate(plan_, result_).at(0); }

  Plan plan_;
  RunResult result_;
};

TEST_F(EvaluateTest, RatioIsTheMedianOfTheRoundsOwnRatios) {
  // The second half of the run was three times slower for both: a ratio of medians would not
  // be 1.1.
  AddRound(110, 100);
  AddRound(110, 100);
  AddRound(330, 300);
  AddRound(330, 300);
  AddRound(330, 300);
  const Figure figure = Evaluated();
  EXPECT_DOUBLE_EQ(figure.value.median, 330);
  EXPECT_DOUBLE_EQ(figure.limit.value(), 300);
  EXPECT_NEAR(figure.ratio->median, 1.1, 1e-9);
  EXPECT_NEAR(figure.ratio->relative(), 0, 1e-9);
  EXPECT_EQ(figure.met, true);
}

TEST_F(EvaluateTest, AboveTheTargetIsMissed) {
  AddRound(130, 100);
  EXPECT_EQ(Evaluated().met, false);
}

TEST_F(EvaluateTest, RoundsWithoutALimitAreLeftOutOfTheRatio) {
  AddRound(110, 100);
  AddRound(500, 100);
  AddRound(110, 100);
  result_.cells[{1, Placement::kUnpinned}].rounds[1].reset();
  const Figure figure = Evaluated();
  EXPECT_EQ(figure.ratio->rounds, 2u);
  EXPECT_NEAR(figure.ratio->median, 1.1, 1e-9);
}

TEST_F(EvaluateTest, EachRoundsOwnFiguresAreKept) {
  AddRound(110, 100);
  AddRound(500, 100);
  AddRound(240, 200);
  AddRound(1, 1);
  result_.cells[{1, Placement::kUnpinned}].rounds[1].reset();
  result_.cells[{0, Placement::kUnpinned}].rounds[3].reset();  // the last ones nobody ran
  using Values = std::vector<std::optional<double>>;
  const Figure figure = Evaluated();
  EXPECT_EQ(figure.round_values, (Values{110, 500, 240}));
  EXPECT_EQ(figure.round_ratios, (Values{1.1, std::nullopt, 1.2}));
  result_.cells[{0, Placement::kUnpinned}].rounds[1].reset();
  EXPECT_EQ(Evaluated().round_values, (Values{110, std::nullopt, 240}));
}

// What measures the limit once more, beside another row, is shown by the row of the first.
TEST_F(EvaluateTest, TheRowOfItsLimitIsNamed) {
  AddRound(110, 100);
  EXPECT_EQ(Evaluated().subject, "subject");
  EXPECT_EQ(Evaluated().limit_row, "") << "no row shows it";
  plan_.rows.push_back({.id = "raw", .what = "the limit", .cell = 1});
  plan_.rows.back().placements = {Placement::kOneCpu};
  EXPECT_EQ(Evaluated().limit_row, "") << "not at this placement";
  plan_.rows.back().placements = {Placement::kUnpinned};
  EXPECT_EQ(Evaluated().limit_row, "raw");
  plan_.cells.push_back(Cell{.subject = "limit", .copy_for = "X1"});
  plan_.rows[0].limit = 2;
  EXPECT_EQ(Evaluated().limit_row, "raw");
  plan_.cells[2].clients = 2;
  EXPECT_EQ(Evaluated().limit_row, "") << "another way to run it";
  plan_.rows[0].limit = 1;
  plan_.rows.back().quantity = Quantity::kCpuPerCall;
  EXPECT_EQ(Evaluated().limit_row, "") << "a row of another figure of it";
}

TEST_F(EvaluateTest, RoundsThatDisagreeAreMarked) {
  AddRound(110, 100);
  AddRound(210, 100);
  AddRound(310, 100);
  const Figure figure = Evaluated();
  EXPECT_FALSE(figure.stable);
  EXPECT_NE(ToTable({figure}, result_).find("MISSED?"), std::string::npos);
}

TEST_F(EvaluateTest, RoundsThatOthersDisturbedAreMarked) {
  AddRound(110, 100);
  AddRound(110, 100);
  CellResult& cell = result_.cells[{0, Placement::kUnpinned}];
  for (auto& sample : cell.rounds) sample->others_share = 0.1;
  EXPECT_TRUE(Evaluated().stable) << "a tenth of the machine is borne";
  for (auto& sample : cell.rounds) sample->others_share = 0.2;
  const Figure figure = Evaluated();
  EXPECT_FALSE(figure.stable) << "also where the rounds agree";
  EXPECT_TRUE(figure.disturbed);
  EXPECT_NE(ToTable({figure}, result_).find("met?"), std::string::npos);
  plan_.rows[0].limit.reset();
  plan_.rows[0].target.reset();
  EXPECT_FALSE(Evaluated().stable);
  EXPECT_NE(ToTable({Evaluated()}, result_).find("unstable"), std::string::npos);
}

// It belongs to what is compared, which may be steadier than the value, or less so.
TEST_F(EvaluateTest, TheRatioHasASpreadOfItsOwn) {
  AddRound(100, 100);
  AddRound(200, 200);
  AddRound(300, 300);
  EXPECT_NE(ToTable({Evaluated()}, result_).find("200.0 ns   25%    0.0 ns   1.00x    0%"),
            std::string::npos)
      << ToTable({Evaluated()}, result_);
}

TEST_F(EvaluateTest, SystemCallsAreOfBothSidesOrOfOne) {
  plan_.rows[0].limit.reset();
  plan_.rows[0].target.reset();
  Sample sample;
  sample.calls.client_counts = {.system_calls = 3, .receives = 2, .sends = 0.5};
  sample.calls.server_counts = {.system_calls = 4, .receives = 0.25, .sends = 0.125};
  sample.calls.client_counts.polls = 0.5;
  sample.calls.client_counts.cpu_questions = 0.25;
  sample.calls.client_counts.cpu_offers = 0.125;
  sample.calls.server_counts.polls = 1;
  sample.calls.server_counts.cpu_questions = 2;
  sample.calls.server_counts.cpu_offers = 3;
  result_.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  const auto value = [&](Quantity quantity) {
    plan_.rows[0].quantity = quantity;
    EXPECT_EQ(Evaluated().unit, "count");
    return Evaluated().value.median;
  };
  EXPECT_DOUBLE_EQ(value(Quantity::kSystemCalls), 7);
  EXPECT_DOUBLE_EQ(value(Quantity::kClientSystemCalls), 3);
  EXPECT_DOUBLE_EQ(value(Quantity::kServerSystemCalls), 4);
  EXPECT_DOUBLE_EQ(value(Quantity::kReceives), 2.25);
  EXPECT_DOUBLE_EQ(value(Quantity::kSends), 0.625);
  EXPECT_DOUBLE_EQ(value(Quantity::kPolls), 1.5);
  EXPECT_DOUBLE_EQ(value(Quantity::kCpuQuestions), 2.25);
  EXPECT_DOUBLE_EQ(value(Quantity::kCpuOffers), 3.125);
  EXPECT_DOUBLE_EQ(value(Quantity::kClientBatch), 2) << "messages in a send";
  EXPECT_DOUBLE_EQ(value(Quantity::kServerBatch), 8);
}

TEST_F(EvaluateTest, FailedSubjectSaysWhy) {
  CellResult& cell = result_.cells[{0, Placement::kUnpinned}];
  cell.rounds.emplace_back();
  cell.failure = absl::UnavailableError("no such program");
  const Figure figure = Evaluated();
  EXPECT_EQ(figure.missing, "subject: no such program");
  EXPECT_EQ(figure.met, std::nullopt) << "what was not measured is neither met nor missed";
  EXPECT_NE(ToTable({figure}, result_).find("not measured: subject: no such program"),
            std::string::npos);
}

TEST_F(EvaluateTest, PlacementThisMachineLacksSaysWhy) {
  result_.cpus.clear();
  result_.impossible[Placement::kUnpinned] = absl::FailedPreconditionError("needs two CPUs");
  EXPECT_EQ(Evaluated().missing, "needs two CPUs");
}

TEST_F(EvaluateTest, PeerThatIsNotThereSaysWhy) {
  AddRound(110, 100);
  CellResult& peer = result_.cells[{1, Placement::kUnpinned}];
  peer.rounds[0].reset();
  peer.failure = absl::UnavailableError("not installed");
  const Figure figure = Evaluated();
  EXPECT_EQ(figure.limit_missing, "limit: not installed");
  EXPECT_EQ(figure.missing, "") << "its own figure is there";
  EXPECT_DOUBLE_EQ(figure.value.median, 110);
  EXPECT_EQ(figure.met, std::nullopt);
  EXPECT_NE(ToTable({figure}, result_).find("ratio not measured: limit: not installed"),
            std::string::npos);
}

TEST_F(EvaluateTest, CpuTimeOfASideIsThatOfTheBusierOne) {
  plan_.rows[0].quantity = Quantity::kCpuPerSide;
  plan_.rows[0].limit.reset();
  plan_.rows[0].target = 150;
  Sample sample;
  sample.calls.client_cpu_ns = 100;
  sample.calls.server_cpu_ns = 180;
  result_.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  const Figure figure = Evaluated();
  EXPECT_DOUBLE_EQ(figure.value.median, 180);
  EXPECT_EQ(figure.client_cpu_ns, 100);
  EXPECT_EQ(figure.server_cpu_ns, 180);
  EXPECT_EQ(figure.met, false);
}

TEST_F(EvaluateTest, WithinAProcessStartingUpIsItsOwnStart) {
  plan_.rows[0].quantity = Quantity::kStartUp;
  plan_.rows[0].limit.reset();
  Sample sample;
  sample.calls.server_start_ns = 7;
  sample.calls.client_start_ns = 30;
  result_.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  EXPECT_DOUBLE_EQ(Evaluated().value.median, 37);
  plan_.cells[0].workload.transport = "inproc";
  EXPECT_DOUBLE_EQ(Evaluated().value.median, 30);
}

TEST_F(EvaluateTest, OneCpuMayHaveATargetOfItsOwn) {
  plan_.rows[0].target_one_cpu = 0.5;
  plan_.rows[0].stretch = 1.1;
  EXPECT_EQ(Evaluated().target, 1.2);
  EXPECT_EQ(Evaluated().stretch, 1.1);
  plan_.rows[0].placements = {Placement::kOneCpu};
  result_.cpus[Placement::kOneCpu] = {};
  EXPECT_EQ(Evaluated().target, 0.5);
  EXPECT_EQ(Evaluated().stretch, std::nullopt);
}

TEST_F(EvaluateTest, NoneMeansNextToNone) {
  plan_.rows[0].quantity = Quantity::kAllocations;
  plan_.rows[0].limit.reset();
  plan_.rows[0].target = 0;
  AddRound(110, 100);
  auto& sample = result_.cells[{0, Placement::kUnpinned}].rounds[0];
  sample->calls.client_counts.allocations = 0.002;
  EXPECT_EQ(Evaluated().unit, "count");
  EXPECT_EQ(Evaluated().met, true);
  sample->calls.client_counts.allocations = 1;
  EXPECT_EQ(Evaluated().met, false);
}

TEST_F(EvaluateTest, MemoryIsTheLargerOfItsParts) {
  plan_.rows[0].quantity = Quantity::kIdleServer;
  plan_.rows[0].limit.reset();
  plan_.rows[0].target = 1024;
  Sample sample;
  sample.idle.server = {.heap_bytes = 700, .anonymous_bytes = 2000};
  result_.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  const Figure figure = Evaluated();
  EXPECT_EQ(figure.unit, "bytes");
  EXPECT_DOUBLE_EQ(figure.value.median, 2000);
  EXPECT_EQ(figure.heap_bytes, 700);
  EXPECT_EQ(figure.resident_bytes, 2000);
  EXPECT_EQ(figure.met, false);
}

TEST_F(EvaluateTest, MemoryOfBothSidesHasWhatTheyShare) {
  plan_.rows[0].quantity = Quantity::kIdleTogether;
  plan_.rows[0].limit.reset();
  plan_.rows[0].target = 8192;
  Sample sample;
  sample.idle.client = {.heap_bytes = 3000, .anonymous_bytes = 2000, .shared_bytes = 4000};
  sample.idle.server = {.heap_bytes = 1000, .anonymous_bytes = 1500, .shared_bytes = 4000};
  result_.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  const Figure figure = Evaluated();
  EXPECT_DOUBLE_EQ(figure.value.median, 3000 + 1500 + 8000);
  EXPECT_EQ(figure.heap_bytes, 4000);
  EXPECT_EQ(figure.resident_bytes, 3500);
  EXPECT_EQ(figure.shared_bytes, 8000);
  EXPECT_NE(ToTable({figure}, result_).find("heap 4000 B, resident 3500 B, shared 8000 B"),
            std::string::npos);
}

TEST_F(EvaluateTest, WakesOfABurstAreOfAllKindsOrByAFutex) {
  plan_.cells[0].workload.burst = 16;
  plan_.rows[0].limit.reset();
  Sample sample;
  sample.calls.client_counts = {.wakes = 0.125, .futex_wakes = 0.0625};
  result_.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  plan_.rows[0].quantity = Quantity::kBurstWakes;
  EXPECT_DOUBLE_EQ(Evaluated().value.median, 2);
  plan_.rows[0].quantity = Quantity::kBurstFutexWakes;
  EXPECT_DOUBLE_EQ(Evaluated().value.median, 1);
  EXPECT_EQ(Evaluated().unit, "count");
}

class PlanTest : public ::testing::TestWithParam<bool> {
 protected:
  const Plan plan_ = MakePlan({.quick = GetParam()});
};

TEST_P(PlanTest, EveryRowNamesCellsThatExist) {
  for (const Row& row : plan_.rows) {
    EXPECT_LT(row.cell, plan_.cells.size()) << row.id;
    EXPECT_FALSE(row.placements.empty()) << row.id;
    EXPECT_LT(row.limit.value_or(0), plan_.cells.size()) << row.id;
  }
}

TEST_P(PlanTest, NoTwoRowsHaveOneId) {
  std::set<std::string> ids;
  for (const Row& row : plan_.rows) EXPECT_TRUE(ids.insert(row.id).second) << row.id;
}

TEST_P(PlanTest, EveryTargetHasARowOfItsId) {
  std::set<std::string> wanted;
  for (const auto& [letter, count] : {std::pair{"L", 9}, {"T", 5}, {"V", 7}, {"S", 5}}) {
    for (int i = 1; i <= count; ++i) wanted.insert(absl::StrCat(letter, i));
  }
  for (const Row& row : plan_.rows) {
    if (row.target.has_value()) wanted.erase(row.id);
  }
  EXPECT_TRUE(wanted.empty()) << *wanted.begin();
}

INSTANTIATE_TEST_SUITE_P(QuickAndFull, PlanTest, ::testing::Bool());

TEST_F(EvaluateTest, AStreamHasABandwidth) {
  AddRound(110, 100);
  EXPECT_FALSE(Evaluated().bytes_per_s.has_value()) << "a call has none";
  plan_.cells[0].workload.call = Call::kStream;
  plan_.cells[0].workload.payload_bytes = 1'000'000;
  plan_.rows[0].quantity = Quantity::kPerCall;
  result_.cells[{0, Placement::kUnpinned}].rounds[0]->calls.per_call_ns = 500'000;
  EXPECT_DOUBLE_EQ(Evaluated().bytes_per_s.value(), 2e9);
  EXPECT_NE(ToTable({Evaluated()}, result_).find("2 GB/s"), std::string::npos);
}

TEST(HumanValueTest, PicksTheUnit) {
  EXPECT_EQ(HumanValue(91.5, "ns"), "91.5 ns");
  EXPECT_EQ(HumanValue(83'420, "ns"), "83.42 us");
  EXPECT_EQ(HumanValue(1'200'000, "ns"), "1.20 ms");
  EXPECT_EQ(HumanValue(512, "bytes"), "512 B");
  EXPECT_EQ(HumanValue(11'776, "bytes"), "11.5 KiB");
}

}  // namespace
}  // namespace mi7::bench
