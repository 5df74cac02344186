#include "bench/harness/results_file.h"

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

Figure MakeFigure(const std::string& id, double value, std::optional<double> ratio,
                  double spread = 0) {
  Figure figure;
  figure.id = id;
  figure.what = "a \"quoted\" name";
  figure.unit = "ns";
  const auto around = [&](double median) {
    return Spread{.rounds = 9,
                  .median = median,
                  .min = median,
                  .lower_quartile = median,
                  .upper_quartile = median * (1 + spread),
                  .max = median};
  };
  figure.value = around(value);
  if (ratio.has_value()) {
    figure.limit = 100;
    figure.ratio = around(*ratio);
    figure.target = 1.2;
    figure.met = *ratio <= 1.2;
  }
  return figure;
}

std::vector<SavedFigure> Saved(const std::vector<Figure>& figures, const RunKind& kind = {}) {
  std::vector<SavedFigure> saved;
  for (const Figure& figure : figures) saved.push_back(ParseFigure(ToJson(figure, kind)).value());
  return saved;
}

std::string Worse(const Figure& before, const Figure& after) {
  return DescribeWorse(Saved({before}), Saved({after}));
}

TEST(ResultsFileTest, JsonHasEveryPromisedField) {
  Figure figure = MakeFigure("X1", 150, 1.5);
  figure.stretch = 1.1;
  figure.subject = "raw";
  figure.limit_row = "raw.X1";
  figure.round_values = {150, std::nullopt, 151};
  figure.round_ratios = {1.5};
  EXPECT_EQ(ToJson(figure, {.quick = true, .machine = "a machine"}),
            "{\"id\":\"X1\",\"what\":\"a \\\"quoted\\\" name\",\"placement\":\"unpinned\","
            "\"value\":150,\"unit\":\"ns\",\"limit\":100,\"ratio\":1.5,\"target\":1.2,"
            "\"stretch\":1.1,\"met\":false,\"stable\":true,\"rounds\":9,\"spread\":0,\"min\":150,"
            "\"max\":150,"
            "\"ratio_spread\":0,\"p99\":null,\"bytes_per_s\":null,\"client_cpu_ns\":null,\"server_"
            "cpu_ns\":null,"
            "\"heap_bytes\":null,\"resident_bytes\":null,\"shared_bytes\":null,\"subject\":\"raw\","
            "\"limit_row\":"
            "\"raw.X1\",\"target_unit\":\"x\",\"round_values\":\"150 - 151\",\"round_ratios\":"
            "\"1.5\",\"others_share\":0,"
            "\"missing\":null,"
            "\"quick\":true,\"machine\":\"a machine\"}");
}

TEST(ResultsFileTest, WithoutItsLimitAFigureIsStillThere) {
  Figure figure = MakeFigure("X1", 150, {});
  figure.limit_missing = "peer: not installed";
  const std::string json = ToJson(figure, {});
  EXPECT_NE(json.find("\"value\":150,"), std::string::npos) << json;
  EXPECT_NE(json.find("\"missing\":\"peer: not installed\""), std::string::npos) << json;
}

// A target that is a ratio stays one where there is nothing to be held against.
TEST(ResultsFileTest, TheUnitOfATargetIsSaid) {
  Figure figure = MakeFigure("X1", 150, {});
  figure.target = 1;
  EXPECT_NE(ToJson(figure, {}).find("\"target_unit\":\"x\""), std::string::npos);
  figure.absolute = true;
  EXPECT_NE(ToJson(figure, {}).find("\"target_unit\":\"ns\""), std::string::npos);
}

// As versions without what was added since wrote it.
TEST(ResultsFileTest, FilesOfOlderVersionsAreCompared) {
  const auto old = ParseFigure(
      "{\"id\":\"X1\",\"what\":\"w\",\"placement\":\"unpinned\",\"value\":150,\"unit\":\"ns\","
      "\"limit\":100,\"ratio\":1.5,\"target\":1.2,\"met\":false,\"stable\":true,\"rounds\":9,"
      "\"spread\":0,\"ratio_spread\":0,\"missing\":null}");
  ASSERT_TRUE(old.ok()) << old.status();
  Figure now = MakeFigure("X1", 150, 2.5);
  now.round_values = {150, 150};
  EXPECT_NE(DescribeWorse({*old}, Saved({now})).find("1.500x -> 2.500x"), std::string::npos);
}

TEST(ResultsFileTest, WhatWasWrittenIsRead) {
  const std::string path = absl::StrCat(std::getenv("TEST_TMPDIR"), "/results.json");
  ASSERT_TRUE(WriteResults(path, {MakeFigure("X1", 150, 1.5), MakeFigure("X2", 7, {})}, {}).ok());
  const auto figures = ReadResults(path);
  ASSERT_TRUE(figures.ok()) << figures.status();
  ASSERT_EQ(figures->size(), 2u);
  EXPECT_EQ(figures->at(0).id, "X1");
  EXPECT_EQ(figures->at(0).placement, "unpinned");
  EXPECT_EQ(figures->at(0).ratio, 1.5);
  EXPECT_EQ(figures->at(0).met, false);
  EXPECT_EQ(figures->at(1).value, 7);
  EXPECT_EQ(figures->at(1).ratio, std::nullopt);
}

TEST(ResultsFileTest, BadLineIsNamed) {
  const std::string path = absl::StrCat(std::getenv("TEST_TMPDIR"), "/bad.json");
  std::ofstream(path) << ToJson(MakeFigure("X1", 150, 1.5), {}) << "\n{\"id\":\"X2\"\n";
  const auto figures = ReadResults(path);
  EXPECT_EQ(figures.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(figures.status().message().find("bad.json:2"), std::string::npos) << figures.status();
  EXPECT_EQ(ReadResults("/nowhere").status().code(), absl::StatusCode::kNotFound);
}

TEST(DescribeWorseTest, WhatGotBetterOrStayedIsNotTold) {
  EXPECT_EQ(Worse(MakeFigure("X1", 150, 1.1), MakeFigure("X1", 150, 1.1)), "");
  EXPECT_EQ(Worse(MakeFigure("X1", 150, 1.1), MakeFigure("X1", 100, 0.7)), "");
}

TEST(DescribeWorseTest, RatiosCountAndNotTheMachine) {
  EXPECT_EQ(Worse(MakeFigure("X1", 150, 1.1), MakeFigure("X1", 450, 1.1)), "");
  const std::string worse = Worse(MakeFigure("X1", 150, 1.3), MakeFigure("X1", 150, 1.6));
  EXPECT_NE(worse.find("X1"), std::string::npos) << worse;
  EXPECT_NE(worse.find("1.300x -> 1.600x (+23%)"), std::string::npos) << worse;
}

TEST(DescribeWorseTest, WithinWhatTheRoundsDifferByIsNoChange) {
  EXPECT_EQ(Worse(MakeFigure("X1", 100, {}, 0.5), MakeFigure("X1", 140, {}, 0.5)), "");
  EXPECT_NE(Worse(MakeFigure("X1", 100, {}, 0.05), MakeFigure("X1", 140, {}, 0.05)), "");
}

TEST(DescribeWorseTest, ATargetMissedByLittleIsTold) {
  const std::string worse = Worse(MakeFigure("X1", 150, 1.19), MakeFigure("X1", 150, 1.21));
  EXPECT_NE(worse.find("its target is missed now"), std::string::npos) << worse;
}

TEST(DescribeWorseTest, WhatIsGoneIsTold) {
  Figure missing = MakeFigure("X1", 0, {});
  missing.missing = "not installed";
  EXPECT_NE(Worse(MakeFigure("X1", 150, 1.1), missing).find("not measured any more"),
            std::string::npos);
  EXPECT_NE(DescribeWorse(Saved({MakeFigure("X1", 150, 1.1)}), {}).find("not there any more"),
            std::string::npos);
  EXPECT_EQ(Worse(missing, missing), "");
}

TEST(DescribeWorseTest, WhatHasNoLimitAnyMoreIsTold) {
  EXPECT_NE(Worse(MakeFigure("X1", 150, 1.1), MakeFigure("X1", 150, {})).find("nothing to be held"),
            std::string::npos);
}

TEST(DescribeMismatchTest, RunsOfOneKindAreNotTold) {
  const auto run = [](bool quick, const std::string& machine) {
    return Saved({MakeFigure("X1", 150, 1.1)}, {.quick = quick, .machine = machine});
  };
  EXPECT_EQ(DescribeMismatch(run(false, "a"), run(false, "a")), "");
  EXPECT_NE(DescribeMismatch(run(false, "a"), run(true, "a")).find("quick"), std::string::npos);
  EXPECT_NE(DescribeMismatch(run(false, "a"), run(false, "b")).find("'a' and 'b'"),
            std::string::npos);
}

TEST(DescribeWorseTest, SomethingWhereThereWasNothingIsWorse) {
  EXPECT_NE(Worse(MakeFigure("X1", 0, {}), MakeFigure("X1", 1, {})), "");
  EXPECT_EQ(Worse(MakeFigure("X1", 0, {}), MakeFigure("X1", 0.001, {})), "");
}

}  // namespace
}  // namespace mi7::bench
