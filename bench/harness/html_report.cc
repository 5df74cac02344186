#include "bench/harness/html_report.h"

#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/harness/report.h"
#include "bench/harness/stats.h"
#include "bench/harness/svg_chart.h"

namespace mi7::bench {
namespace {

constexpr char kStyle[] = R"(
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; color: #1a1d21; background: #fff;
       max-width: 1360px; margin: 24px auto; padding: 0 16px; }
h1 { font-size: 24px; margin-bottom: 4px; } h2 { font-size: 19px; margin-top: 36px; }
p { margin: 6px 0; } .small { color: #555d66; font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; border-bottom: 2px solid #ced4da; padding: 4px 8px; }
td { border-bottom: 1px solid #e9ecef; padding: 3px 8px; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.met { color: #2b8a3e; } .missed { color: #c92a2a; font-weight: 600; } .gone { color: #868e96; }
svg { width: 100%; height: auto; margin: 14px 0; }
svg text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #343a40; }
svg .title { font-size: 15px; font-weight: 600; }
svg .grid { stroke: #e3e7eb; stroke-width: 1; }
)";

std::string PlacementTitle(Placement placement) {
  switch (placement) {
    case Placement::kDifferentCpus:
      return "Client and server on different CPUs";
    case Placement::kOneCpu:
      return "Both on one CPU";
    case Placement::kUnpinned:
      return "Unpinned: what a user gets";
  }
  return "?";
}

std::string RateText(double per_second) {
  if (per_second < 1e3) return absl::StrFormat("%.0f/s", per_second);
  return per_second < 1e6 ? absl::StrFormat("%.3g k/s", per_second / 1e3)
                          : absl::StrFormat("%.3g M/s", per_second / 1e6);
}

std::string BytesText(double bytes) {
  if (bytes < 1024) return absl::StrFormat("%g B", bytes);
  return bytes < 1024 * 1024 ? absl::StrFormat("%g KiB", bytes / 1024)
                             : absl::StrFormat("%g MiB", bytes / (1024 * 1024));
}

// The median over the rounds of what `get` takes from a sample; nullopt when nothing was measured.
template <typename Get>
std::optional<double> Median(const RunResult& result, size_t cell, Placement placement, Get get) {
  const auto found = result.cells.find({cell, placement});
  if (found == result.cells.end()) return std::nullopt;
  std::vector<double> values;
  for (const std::optional<Sample>& sample : found->second.rounds) {
    if (sample.has_value()) values.push_back(get(sample->calls));
  }
  if (values.empty()) return std::nullopt;
  return Quantile(std::move(values), 0.5);
}

// The value of a chart at one point.
std::optional<double> ValueAt(const Chart& chart, const Chart::Point& point, const Plan& plan,
                              const RunResult& result) {
  const Workload& workload = plan.cells[point.cell].workload;
  const bool alone = UsualQuantity(plan.cells[point.cell]) == Quantity::kP50;
  const std::optional<double> ns =
      Median(result, point.cell, chart.placement, [&](const CallFigures& calls) {
        switch (chart.kind) {
          case Chart::Kind::kTail:
            return calls.p99_ns();
          case Chart::Kind::kCpu:
            return calls.client_cpu_ns + calls.server_cpu_ns;
          case Chart::Kind::kTime:
            return alone ? calls.p50_ns() : calls.per_call_ns;
          default:
            return calls.per_call_ns;
        }
      });
  if (!ns.has_value() || *ns <= 0) return std::nullopt;
  switch (chart.kind) {
    case Chart::Kind::kRate:
      return 1e9 / *ns;
    case Chart::Kind::kBandwidth:
      return 1e9 * static_cast<double>(workload.payload_bytes) / *ns;
    case Chart::Kind::kTime:
    case Chart::Kind::kTail:
    case Chart::Kind::kCpu:
    case Chart::Kind::kDistribution:
      break;
  }
  return ns;
}

SvgChart::Series Distribution(const Chart& chart, const Chart::Series& series,
                              const RunResult& result) {
  SvgChart::Series curve = {.name = series.name, .points = {}};
  // The last share is the slowest call, which has no place on a scale of tails.
  for (size_t i = 0; i + 1 < kShares.size(); ++i) {
    const std::optional<double> ns =
        Median(result, series.points.front().cell, chart.placement,
               [&](const CallFigures& calls) { return calls.latencies_ns[i]; });
    if (ns.has_value()) curve.points.emplace_back(kShares[i], *ns);
  }
  return curve;
}

std::string ToSvg(const Chart& chart, const Plan& plan, const RunResult& result) {
  const bool distribution = chart.kind == Chart::Kind::kDistribution;
  const bool bytes = chart.x_title == "payload bytes";
  SvgChart svg = {
      .title = chart.title, .x_title = chart.x_title, .x_text = {}, .y_text = {}, .series = {}};
  svg.x_scale = distribution ? SvgChart::XScale::kTail : SvgChart::XScale::kLogarithmic;
  svg.x_text = [=](double x) {
    if (distribution) return absl::StrFormat("%g%%", 100 * x);
    return bytes ? BytesText(x) : absl::StrFormat("%g", x);
  };
  svg.y_text = [&](double y) {
    if (chart.kind == Chart::Kind::kRate) return RateText(y);
    return chart.kind == Chart::Kind::kBandwidth ? HumanBandwidth(y) : HumanValue(y, "ns");
  };
  for (const Chart::Series& series : chart.series) {
    if (distribution) {
      svg.series.push_back(Distribution(chart, series, result));
      continue;
    }
    SvgChart::Series curve = {.name = series.name, .points = {}};
    for (const Chart::Point& point : series.points) {
      const std::optional<double> y = ValueAt(chart, point, plan, result);
      if (y.has_value()) curve.points.emplace_back(point.x, *y);
    }
    svg.series.push_back(std::move(curve));
  }
  std::erase_if(svg.series, [](const SvgChart::Series& series) { return series.points.empty(); });
  return svg.Render();
}

std::string TableRow(const Figure& figure) {
  std::string html =
      absl::StrFormat("<tr><td>%s</td><td>%s</td>", EscapeHtml(figure.id), EscapeHtml(figure.what));
  if (!figure.missing.empty()) {
    return absl::StrCat(html,
                        "<td colspan='12' class='gone'>not measured: ", EscapeHtml(figure.missing),
                        "</td></tr>\n");
  }
  const auto cell = [&](const std::string& text) {
    absl::StrAppend(&html, "<td class='n'>", EscapeHtml(text), "</td>");
  };
  const auto number = [](double ratio) {
    return ratio < 0.2 ? absl::StrFormat("%.3fx", ratio) : absl::StrFormat("%.2fx", ratio);
  };
  cell(HumanValue(figure.value.median, figure.unit));
  cell(absl::StrFormat("%.0f%%", 50 * figure.value.relative()));
  cell(figure.p99.has_value() ? HumanValue(*figure.p99, "ns") : "");
  cell(figure.limit.has_value() ? HumanValue(*figure.limit, figure.unit) : "");
  cell(figure.ratio.has_value() ? number(figure.ratio->median) : "");
  cell(figure.ratio.has_value() ? absl::StrFormat("%.0f%%", 50 * figure.ratio->relative()) : "");
  cell(!figure.target.has_value() ? ""
       : figure.absolute          ? HumanValue(*figure.target, figure.unit)
                                  : number(*figure.target));
  cell(!figure.stretch.has_value() ? ""
       : figure.absolute           ? HumanValue(*figure.stretch, figure.unit)
                                   : number(*figure.stretch));
  cell(figure.client_cpu_ns.has_value() ? HumanValue(*figure.client_cpu_ns, "ns") : "");
  cell(figure.server_cpu_ns.has_value() ? HumanValue(*figure.server_cpu_ns, "ns") : "");
  cell(absl::StrFormat("%.0f%%", 100 * figure.others_share));
  const char* const verdict = !figure.met.has_value() ? "" : *figure.met ? "met" : "missed";
  absl::StrAppend(&html, "<td class='", verdict, "'>", verdict,
                  figure.stable      ? ""
                  : figure.disturbed ? " (others were busy)"
                                     : " (rounds disagree)");
  if (!figure.limit_missing.empty()) {
    absl::StrAppend(&html,
                    "<span class='gone'>ratio not measured: ", EscapeHtml(figure.limit_missing),
                    "</span>");
  }
  absl::StrAppend(&html, EscapeHtml(MemoryText(figure)), "</td></tr>\n");
  return html;
}

std::string Tables(const std::vector<Figure>& figures) {
  std::string html;
  std::optional<Placement> placement;
  for (const Figure& figure : figures) {
    if (figure.detail) continue;
    if (placement != figure.placement) {
      if (placement.has_value()) html += "</table>\n";
      placement = figure.placement;
      absl::StrAppend(&html, "<h2>", PlacementTitle(*placement),
                      "</h2>\n<table><tr><th>id</th><th>what</th><th class='n'>value</th>"
                      "<th class='n'>+-</th><th class='n'>p99</th><th class='n'>limit</th>"
                      "<th class='n'>ratio</th><th class='n'>+-</th><th class='n'>at most</th>"
                      "<th class='n'>stretch</th><th class='n'>client CPU</th>"
                      "<th class='n'>server CPU</th><th class='n'>others</th><th></th></tr>\n");
    }
    html += TableRow(figure);
  }
  return placement.has_value() ? html + "</table>\n" : html;
}

}  // namespace

std::string ToHtml(const RunNotes& notes, const Plan& plan, const RunResult& result,
                   const std::vector<Figure>& figures) {
  int met = 0;
  int missed = 0;
  for (const Figure& figure : figures) {
    if (figure.met.has_value()) ++(*figure.met ? met : missed);
  }
  std::string html = absl::StrCat(
      "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
      "<meta name='viewport' content='width=device-width'><title>mi7 bench</title>\n<style>",
      kStyle, "</style></head>\n<body>\n<h1>mi7 bench</h1>\n<p>", EscapeHtml(notes.machine),
      "</p>\n<p class='small'>", EscapeHtml(notes.how),
      absl::StrFormat(
          ". Before the run others kept %.0f%% of the machine busy. %d targets are met, "
          "%d missed, each at each placement.</p>\n",
          100 * notes.others_share, met, missed));
  absl::StrAppend(&html,
                  "<p class='small'>A ratio is to the limit or peer that the row names, measured "
                  "next to it in every round. bench/README.md says what each row means.</p>\n");
  if (!plan.charts.empty()) html += "<h2>Charts</h2>\n";
  for (const Chart& chart : plan.charts) html += ToSvg(chart, plan, result);
  return absl::StrCat(html, Tables(figures), "</body></html>\n");
}

absl::Status WriteHtml(const std::string& path, const RunNotes& notes, const Plan& plan,
                       const RunResult& result, const std::vector<Figure>& figures) {
  std::ofstream file(path);
  file << ToHtml(notes, plan, result, figures);
  file.flush();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace mi7::bench
