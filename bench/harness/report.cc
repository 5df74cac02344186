#include "bench/harness/report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mi7::bench {
namespace {

std::string Percent(double share) {
  return share < 9.995 ? absl::StrFormat("%.0f%%", 100 * share) : ">999%";
}

// "1.05x"; small ones with more digits, "0.020x".
std::string Ratio(double ratio) {
  return ratio < 0.2 ? absl::StrFormat("%.3fx", ratio) : absl::StrFormat("%.2fx", ratio);
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

// "met", "MISSED", and with a question mark when others had too much of the machine (the column
// "others" says so) or the rounds disagree; "unstable" without a target.
std::string Verdict(const Figure& figure) {
  if (!figure.met.has_value()) return figure.stable ? "" : "unstable";
  return absl::StrCat(*figure.met ? "met" : "MISSED", figure.stable ? "" : "?");
}

// `client` and `server`: CPU time per call.
std::string Columns(const std::string& value, const std::string& spread, const std::string& p99,
                    const std::string& ratio, const std::string& ratio_spread,
                    const std::string& target, const std::string& stretch,
                    const std::string& verdict, const std::string& others,
                    const std::string& client, const std::string& server,
                    const std::string& bandwidth) {
  std::string text = absl::StrFormat("%9s %5s %9s %7s %5s %10s %10s %-8s %-6s %10s %10s  %s", value,
                                     spread, p99, ratio, ratio_spread, target, stretch, verdict,
                                     others, client, server, bandwidth);
  while (text.back() == ' ') text.pop_back();
  return text;
}

// Of a target or a stretch.
std::string BoundText(const Figure& figure, const std::optional<double>& bound) {
  if (!bound.has_value()) return "";
  if (figure.absolute) return absl::StrCat("<= ", HumanValue(*bound, figure.unit));
  return absl::StrCat("<= ", Ratio(*bound));
}

// What stands in the last column of a row.
std::string Remark(const Figure& figure) {
  if (!figure.limit_missing.empty()) {
    return absl::StrCat("ratio not measured: ", figure.limit_missing);
  }
  if (figure.bytes_per_s.has_value()) return HumanBandwidth(*figure.bytes_per_s);
  return MemoryText(figure);
}

std::string NanosText(const std::optional<double>& ns) {
  return ns.has_value() ? HumanValue(*ns, "ns") : "";
}

}  // namespace

std::string HumanValue(double value, const std::string& unit) {
  if (unit == "bytes") {
    if (value < 10'000) return absl::StrFormat("%.0f B", value);
    return value < 1e7 ? absl::StrFormat("%.1f KiB", value / 1024)
                       : absl::StrFormat("%.1f MiB", value / (1024 * 1024));
  }
  if (unit == "count") return absl::StrFormat("%.2f", value);
  if (unit == "1/s") return absl::StrFormat("%.1f/s", value);
  if (unit == "x") return absl::StrFormat("%.2fx", value);
  if (value < 1'000) return absl::StrFormat("%.1f ns", value);
  if (value < 1e6) return absl::StrFormat("%.2f us", value / 1e3);
  return value < 1e9 ? absl::StrFormat("%.2f ms", value / 1e6)
                     : absl::StrFormat("%.2f s", value / 1e9);
}

std::string HumanBandwidth(double bytes_per_s) {
  if (bytes_per_s < 1e6) return absl::StrFormat("%.3g kB/s", bytes_per_s / 1e3);
  return bytes_per_s < 1e9 ? absl::StrFormat("%.3g MB/s", bytes_per_s / 1e6)
                           : absl::StrFormat("%.3g GB/s", bytes_per_s / 1e9);
}

std::string MemoryText(const Figure& figure) {
  if (!figure.heap_bytes.has_value() || !figure.resident_bytes.has_value()) return "";
  const std::string own = absl::StrCat("heap ", HumanValue(*figure.heap_bytes, "bytes"),
                                       ", resident ", HumanValue(*figure.resident_bytes, "bytes"));
  if (!figure.shared_bytes.has_value()) return own;
  return absl::StrCat(own, ", shared ", HumanValue(*figure.shared_bytes, "bytes"));
}

std::string ToTable(const std::vector<Figure>& figures, const RunResult& result) {
  size_t id_width = 0;
  size_t what_width = 0;
  for (const Figure& figure : figures) {
    if (figure.detail) continue;
    id_width = std::max(id_width, figure.id.size());
    what_width = std::max(what_width, figure.what.size());
  }
  std::string table;
  std::optional<Placement> placement;
  const auto add = [&](const std::string& id, const std::string& what, const std::string& rest) {
    absl::StrAppendFormat(&table, "%-*s %-*s %s\n", static_cast<int>(id_width), id,
                          static_cast<int>(what_width), what, rest);
  };
  for (const Figure& figure : figures) {
    if (figure.detail) continue;
    if (placement != figure.placement) {
      placement = figure.placement;
      absl::StrAppend(&table, "\n", Title(*placement, result), "\n");
      add("id", "what",
          Columns("value", "+-", "p99", "ratio", "+-", "target", "(stretch)", "", "others",
                  "client CPU", "server CPU", "bandwidth"));
    }
    if (!figure.missing.empty()) {
      add(figure.id, figure.what, absl::StrCat("not measured: ", figure.missing));
      continue;
    }
    add(figure.id, figure.what,
        Columns(HumanValue(figure.value.median, figure.unit), Percent(figure.value.relative() / 2),
                NanosText(figure.p99), figure.ratio.has_value() ? Ratio(figure.ratio->median) : "",
                figure.ratio.has_value() ? Percent(figure.ratio->relative() / 2) : "",
                BoundText(figure, figure.target), BoundText(figure, figure.stretch),
                Verdict(figure), Percent(figure.others_share), NanosText(figure.client_cpu_ns),
                NanosText(figure.server_cpu_ns), Remark(figure)));
  }
  return table;
}

}  // namespace mi7::bench
