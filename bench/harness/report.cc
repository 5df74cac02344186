#include "bench/harness/report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mi7::bench {
namespace {

std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      absl::StrAppend(&quoted, "\\", std::string(1, c));
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&quoted, "\\u%04x", static_cast<int>(c));
    } else {
      quoted.push_back(c);
    }
  }
  return quoted + "\"";
}

std::string Number(double value) { return absl::StrFormat("%.6g", value); }

std::string OrNull(const std::optional<double>& value) {
  return value.has_value() ? Number(*value) : "null";
}

std::string Percent(double share) {
  return share < 9.995 ? absl::StrFormat("%.0f%%", 100 * share) : ">999%";
}

std::string Title(Placement placement, const RunResult& result) {
  const auto cpus = result.cpus.find(placement);
  const std::string where = cpus == result.cpus.end() ? "not measured" : cpus->second.ToString();
  switch (placement) {
    case Placement::kDifferentCpus:
      return absl::StrCat("Different CPUs (", where, ")");
    case Placement::kOneCpu:
      return absl::StrCat("One CPU (", where, ")");
    case Placement::kUnpinned:
      return absl::StrCat("Unpinned (", where, ")");
  }
  return "?";
}

// "met", "MISSED", and with a question mark when the rounds disagree; "unstable" without a target.
std::string Verdict(const Figure& figure) {
  if (!figure.met.has_value()) return figure.stable ? "" : "unstable";
  return absl::StrCat(*figure.met ? "met" : "MISSED", figure.stable ? "" : "?");
}

std::string TargetText(const Figure& figure) {
  if (!figure.target.has_value()) return "";
  if (figure.absolute) return absl::StrCat("<= ", HumanValue(*figure.target, figure.unit));
  return absl::StrFormat("<= %.2fx", *figure.target);
}

}  // namespace

std::string HumanValue(double value, const std::string& unit) {
  if (unit == "bytes") {
    return value < 10'000 ? absl::StrFormat("%.0f B", value)
                          : absl::StrFormat("%.1f KiB", value / 1024);
  }
  if (value < 1'000) return absl::StrFormat("%.1f ns", value);
  if (value < 1'000'000) return absl::StrFormat("%.2f us", value / 1'000);
  return absl::StrFormat("%.2f ms", value / 1'000'000);
}

std::string ToTable(const std::vector<Figure>& figures, const RunResult& result) {
  std::string table;
  std::optional<Placement> placement;
  for (const Figure& figure : figures) {
    if (placement != figure.placement) {
      placement = figure.placement;
      absl::StrAppend(&table, "\n", Title(*placement, result), "\n");
      absl::StrAppendFormat(&table, "%-22s %-35s %9s %5s %9s %6s %8s %-8s %s\n", "id", "what",
                            "value", "+-", "p99", "ratio", "target", "", "others");
    }
    if (!figure.missing.empty()) {
      absl::StrAppendFormat(&table, "%-22s %-35s not measured: %s\n", figure.id, figure.what,
                            figure.missing);
      continue;
    }
    const bool latency = figure.p99.has_value();
    absl::StrAppendFormat(
        &table, "%-22s %-35s %9s %5s %9s %6s %8s %-8s %s\n", figure.id, figure.what,
        HumanValue(figure.value.median, figure.unit), Percent(figure.value.relative() / 2),
        latency ? HumanValue(*figure.p99, "ns") : std::string(),
        figure.ratio.has_value() ? absl::StrFormat("%.2fx", figure.ratio->median) : std::string(),
        TargetText(figure), Verdict(figure), Percent(figure.others_share));
  }
  return table;
}

std::string ToJson(const Figure& figure) {
  const bool there = figure.missing.empty();
  std::string json =
      absl::StrCat("{\"id\":", Quoted(figure.id), ",\"what\":", Quoted(figure.what),
                   ",\"placement\":", Quoted(std::string(PlacementName(figure.placement))),
                   ",\"value\":", there ? Number(figure.value.median) : "null",
                   ",\"unit\":", Quoted(figure.unit), ",\"limit\":", OrNull(figure.limit));
  absl::StrAppend(
      &json, ",\"ratio\":", figure.ratio.has_value() ? Number(figure.ratio->median) : "null",
      ",\"target\":", OrNull(figure.target),
      ",\"met\":", !figure.met.has_value() ? "null" : (*figure.met ? "true" : "false"),
      ",\"stable\":", figure.stable ? "true" : "false", ",\"rounds\":", figure.value.rounds,
      ",\"spread\":", Number(figure.value.relative()));
  absl::StrAppend(
      &json, ",\"min\":", Number(figure.value.min), ",\"max\":", Number(figure.value.max),
      ",\"ratio_spread\":", figure.ratio.has_value() ? Number(figure.ratio->relative()) : "null",
      ",\"p99\":", OrNull(figure.p99), ",\"client_cpu_ns\":", OrNull(figure.client_cpu_ns),
      ",\"server_cpu_ns\":", OrNull(figure.server_cpu_ns),
      ",\"heap_bytes\":", OrNull(figure.heap_bytes),
      ",\"resident_bytes\":", OrNull(figure.resident_bytes));
  absl::StrAppend(&json, ",\"others_share\":", Number(figure.others_share),
                  ",\"missing\":", there ? "null" : Quoted(figure.missing), "}");
  return json;
}

}  // namespace mi7::bench
