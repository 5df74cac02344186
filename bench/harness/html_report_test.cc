#include "bench/harness/html_report.h"

#include <cstdio>
#include <string>
#include <utility>

#include "bench/harness/svg_chart.h"
#include "gtest/gtest.h"

namespace mi7::bench {
namespace {

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

SvgChart MakeChart() {
  SvgChart chart = {.title = "T & T", .x_title = "x", .x_text = {}, .y_text = {}, .series = {}};
  chart.x_text =
      chart.y_text = [](double value) { return std::to_string(static_cast<int>(value)); };
  return chart;
}

TEST(SvgChartTest, NothingMeasuredGivesNoChart) {
  SvgChart chart = MakeChart();
  EXPECT_EQ(chart.Render(), "");
  chart.series = {{.name = "zero", .points = {{1, 0}}}};
  EXPECT_EQ(chart.Render(), "");
}

TEST(SvgChartTest, EveryPointOfEverySeriesIsThere) {
  SvgChart chart = MakeChart();
  chart.series = {{.name = "a<b", .points = {{1, 10}, {10, 100}}},
                  {.name = "c", .points = {{1, 20}}}};
  const std::string svg = chart.Render();
  EXPECT_TRUE(Contains(svg, "T &amp; T")) << svg;
  for (const char* point : {"a&lt;b: 10 at 1", "a&lt;b: 100 at 10", "c: 20 at 1"}) {
    EXPECT_TRUE(Contains(svg, point)) << point << "\n" << svg;
  }
  EXPECT_FALSE(Contains(svg, "nan")) << svg;
}

TEST(SvgChartTest, MoreIsFurtherUpAndRight) {
  SvgChart chart = MakeChart();
  chart.series = {{.name = "a", .points = {{1, 10}, {10, 100}}}};
  double x[2];
  double y[2];
  const std::string svg = chart.Render();
  const size_t line = svg.find("<polyline points='");
  ASSERT_NE(line, std::string::npos);
  ASSERT_EQ(std::sscanf(svg.c_str() + line, "<polyline points='%lf,%lf %lf,%lf", &x[0], &y[0],
                        &x[1], &y[1]),
            4);
  EXPECT_LT(x[0], x[1]);
  EXPECT_GT(y[0], y[1]);
}

TEST(SvgChartTest, AShortAxisHasTicksToo) {
  SvgChart chart = MakeChart();
  chart.series = {{.name = "a", .points = {{1, 281}, {10, 412}}}};
  const std::string svg = chart.Render();
  for (const char* tick : {">300<", ">400<"}) EXPECT_TRUE(Contains(svg, tick)) << svg;
}

TEST(HtmlReportTest, AChartMayShowTailsOrCpuTime) {
  Plan plan;
  plan.cells = {Cell{.subject = "subject"}};
  RunResult result;
  Sample sample;
  sample.calls.latencies_ns[kMedianShare] = 500;
  sample.calls.latencies_ns[kP99Share] = 900;
  sample.calls.client_cpu_ns = 30;
  sample.calls.server_cpu_ns = 40;
  result.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  for (const auto& [kind, seen] : {std::pair{Chart::Kind::kTime, "subject: 500.0 ns at 8"},
                                   {Chart::Kind::kTail, "subject: 900.0 ns at 8"},
                                   {Chart::Kind::kCpu, "subject: 70.0 ns at 8"}}) {
    plan.charts = {{.kind = kind,
                    .title = "Calls",
                    .x_title = "connections",
                    .placement = Placement::kUnpinned,
                    .series = {{.name = "subject", .points = {{.x = 8, .cell = 0}}}}}};
    const std::string html = ToHtml({.machine = "", .how = ""}, plan, result, {});
    EXPECT_TRUE(Contains(html, seen)) << html;
  }
}

TEST(HtmlReportTest, ShowsChartsAndFiguresAndNeedsNothingElse) {
  Plan plan;
  plan.cells = {Cell{.subject = "subject"}};
  plan.charts = {{.kind = Chart::Kind::kRate,
                  .title = "Calls",
                  .x_title = "outstanding",
                  .placement = Placement::kUnpinned,
                  .series = {{.name = "mi7 shm", .points = {{.x = 1, .cell = 0}}}}}};
  RunResult result;
  Sample sample;
  sample.calls.per_call_ns = 500;
  result.cells[{0, Placement::kUnpinned}].rounds.emplace_back(sample);
  Figure figure;
  figure.id = "X1";
  figure.what = "a <row>";
  figure.unit = "ns";
  figure.value.median = 500;
  figure.target = 1;
  figure.met = false;
  figure.limit_missing = "peer: asleep";
  figure.client_cpu_ns = 321;
  figure.others_share = 0.07;
  figure.stretch = 0.5;
  figure.stable = false;
  Figure busy = figure;
  busy.disturbed = true;
  Figure gone = figure;
  gone.missing = "peer: not installed";
  const std::string html =
      ToHtml({.machine = "a machine", .how = "9 rounds"}, plan, result, {figure, busy, gone});
  for (const char* part : {"a machine", "9 rounds", "mi7 shm: 2 M/s at 1", "a &lt;row&gt;",
                           "500.0 ns", "missed (rounds disagree)", "missed (others were busy)",
                           "not measured: peer: not installed", "ratio not measured: peer: asleep",
                           "321.0 ns", "7%", "0.50x"}) {
    EXPECT_TRUE(Contains(html, part)) << part << "\n" << html;
  }
  for (const char* elsewhere : {"http:", "https:", "src=", "<script", "<link", "@import"}) {
    EXPECT_FALSE(Contains(html, elsewhere)) << elsewhere;
  }
}

}  // namespace
}  // namespace mi7::bench
