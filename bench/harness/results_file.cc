#include "bench/harness/results_file.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace mi7::bench {
namespace {

// Less is no change worth a line, however well the rounds agree.
constexpr double kChange = 0.10;
// Of figures that are zero: more than this is not.
constexpr double kSomething = 0.01;

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

// The values of all rounds, as one text that needs no array: "281 279 - 290".
std::string OfRounds(const std::vector<std::optional<double>>& values) {
  return Quoted(
      absl::StrJoin(values, " ", [](std::string* text, const std::optional<double>& value) {
        absl::StrAppend(text, value.has_value() ? Number(*value) : "-");
      }));
}

// The members of a flat object, as text; strings without quotes and with their escapes.
using Members = std::map<std::string, std::string, std::less<>>;

// Reads one flat JSON object: no arrays, no objects inside.
class FlatReader {
 public:
  explicit FlatReader(std::string_view text) : text_(text) {}

  std::optional<Members> Read() {
    Members members;
    if (!Take('{')) return std::nullopt;
    do {
      std::string name;
      std::string value;
      if (!TakeString(&name) || !Take(':') || !TakeValue(&value)) return std::nullopt;
      members[name] = value;
    } while (Take(','));
    if (!Take('}') || at_ != text_.size()) return std::nullopt;
    return members;
  }

 private:
  bool Take(char expected) {
    if (at_ >= text_.size() || text_[at_] != expected) return false;
    ++at_;
    return true;
  }
  bool TakeString(std::string* value) {
    if (!Take('"')) return false;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) value->push_back(text_[at_++]);
      value->push_back(text_[at_++]);
    }
    return Take('"');
  }
  bool TakeValue(std::string* value) {
    if (at_ < text_.size() && text_[at_] == '"') return TakeString(value);
    const size_t end = std::min(text_.find_first_of(",}", at_), text_.size());
    *value = std::string(text_.substr(at_, end - at_));
    at_ = end;
    return !value->empty();
  }

  const std::string_view text_;
  size_t at_ = 0;
};

// A number, or nothing for null; false when it is neither.
bool GetNumber(const Members& members, std::string_view name, std::optional<double>* value) {
  const auto found = members.find(name);
  if (found == members.end()) return false;
  double number = 0;
  if (found->second == "null") return true;
  if (!absl::SimpleAtod(found->second, &number)) return false;
  *value = number;
  return true;
}

std::string GetText(const Members& members, std::string_view name) {
  const auto found = members.find(name);
  return found == members.end() ? std::string() : found->second;
}

// Why `after` is worse, or nothing.
std::string Worse(const SavedFigure& before, const SavedFigure& after) {
  if (!before.value.has_value()) return "";
  if (!after.value.has_value()) return "not measured any more";
  if (before.ratio.has_value() && !after.ratio.has_value()) return "has nothing to be held against";
  const bool ratios = before.ratio.has_value() && after.ratio.has_value();
  const double was = ratios ? *before.ratio : *before.value;
  const double is = ratios ? *after.ratio : *after.value;
  const double differ =
      (ratios ? before.ratio_spread + after.ratio_spread : before.spread + after.spread) / 2;
  const bool grew = was == 0 ? is > kSomething : is > was * (1 + std::max(kChange, differ));
  const bool missed = before.met == true && after.met == false;
  if (!grew && !missed) return "";
  std::string text =
      ratios ? absl::StrFormat("%.3fx -> %.3fx", was, is)
             : absl::StrCat(HumanValue(was, before.unit), " -> ", HumanValue(is, after.unit));
  if (was > 0) absl::StrAppendFormat(&text, " (%+.0f%%)", 100 * (is / was - 1));
  if (missed) absl::StrAppend(&text, ", its target is missed now");
  return text;
}

}  // namespace

std::string ToJson(const Figure& figure, const RunKind& kind) {
  const bool there = figure.missing.empty();
  const std::string& missing = there ? figure.limit_missing : figure.missing;
  std::string json =
      absl::StrCat("{\"id\":", Quoted(figure.id), ",\"what\":", Quoted(figure.what),
                   ",\"placement\":", Quoted(std::string(PlacementName(figure.placement))),
                   ",\"value\":", there ? Number(figure.value.median) : "null",
                   ",\"unit\":", Quoted(figure.unit), ",\"limit\":", OrNull(figure.limit));
  absl::StrAppend(
      &json, ",\"ratio\":", figure.ratio.has_value() ? Number(figure.ratio->median) : "null",
      ",\"target\":", OrNull(figure.target), ",\"stretch\":", OrNull(figure.stretch),
      ",\"met\":", !figure.met.has_value() ? "null" : (*figure.met ? "true" : "false"),
      ",\"stable\":", figure.stable ? "true" : "false", ",\"rounds\":", figure.value.rounds,
      ",\"spread\":", Number(figure.value.relative()));
  absl::StrAppend(
      &json, ",\"min\":", Number(figure.value.min), ",\"max\":", Number(figure.value.max),
      ",\"ratio_spread\":", figure.ratio.has_value() ? Number(figure.ratio->relative()) : "null",
      ",\"p99\":", OrNull(figure.p99), ",\"bytes_per_s\":", OrNull(figure.bytes_per_s),
      ",\"client_cpu_ns\":", OrNull(figure.client_cpu_ns),
      ",\"server_cpu_ns\":", OrNull(figure.server_cpu_ns),
      ",\"heap_bytes\":", OrNull(figure.heap_bytes),
      ",\"resident_bytes\":", OrNull(figure.resident_bytes),
      ",\"shared_bytes\":", OrNull(figure.shared_bytes));
  absl::StrAppend(&json, ",\"subject\":", Quoted(figure.subject),
                  ",\"limit_row\":", figure.limit_row.empty() ? "null" : Quoted(figure.limit_row),
                  ",\"target_unit\":", Quoted(figure.absolute ? figure.unit : "x"),
                  ",\"round_values\":", OfRounds(figure.round_values),
                  ",\"round_ratios\":", OfRounds(figure.round_ratios));
  absl::StrAppend(&json, ",\"others_share\":", Number(figure.others_share),
                  ",\"missing\":", missing.empty() ? "null" : Quoted(missing),
                  ",\"quick\":", kind.quick ? "true" : "false",
                  ",\"machine\":", Quoted(kind.machine), "}");
  return json;
}

absl::Status WriteResults(const std::string& path, const std::vector<Figure>& figures,
                          const RunKind& kind) {
  std::ofstream file(path);
  for (const Figure& figure : figures) file << ToJson(figure, kind) << "\n";
  file.flush();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

absl::StatusOr<SavedFigure> ParseFigure(std::string_view line) {
  const std::optional<Members> members = FlatReader(line).Read();
  if (!members.has_value()) return absl::InvalidArgumentError("no JSON object of the bench");
  SavedFigure figure;
  figure.id = GetText(*members, "id");
  figure.placement = GetText(*members, "placement");
  figure.unit = GetText(*members, "unit");
  figure.quick = GetText(*members, "quick");
  figure.machine = GetText(*members, "machine");
  std::optional<double> spread;
  std::optional<double> ratio_spread;
  if (figure.id.empty() || !GetNumber(*members, "value", &figure.value) ||
      !GetNumber(*members, "ratio", &figure.ratio) || !GetNumber(*members, "spread", &spread) ||
      !GetNumber(*members, "ratio_spread", &ratio_spread)) {
    return absl::InvalidArgumentError("id, value, ratio, spread or ratio_spread is missing");
  }
  figure.spread = spread.value_or(0);
  figure.ratio_spread = ratio_spread.value_or(0);
  const std::string met = GetText(*members, "met");
  if (met == "true" || met == "false") figure.met = met == "true";
  return figure;
}

absl::StatusOr<std::vector<SavedFigure>> ReadResults(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::vector<SavedFigure> figures;
  std::string line;
  while (std::getline(file, line)) {
    absl::StatusOr<SavedFigure> figure = ParseFigure(line);
    if (!figure.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", figures.size() + 1, ": ",
                                                     std::string(figure.status().message())));
    }
    figures.push_back(*std::move(figure));
  }
  return figures;
}

std::string DescribeMismatch(const std::vector<SavedFigure>& before,
                             const std::vector<SavedFigure>& after) {
  if (before.empty() || after.empty()) return "";
  std::string text;
  if (before[0].quick != after[0].quick) {
    absl::StrAppend(&text, "One of the two is a quick run: shorter, and with fewer connections.\n");
  }
  if (before[0].machine != after[0].machine) {
    absl::StrAppend(&text, "Two machines: '", before[0].machine, "' and '", after[0].machine,
                    "'.\n");
  }
  return text;
}

std::string DescribeWorse(const std::vector<SavedFigure>& before,
                          const std::vector<SavedFigure>& after) {
  std::map<std::pair<std::string, std::string>, const SavedFigure*> now;
  for (const SavedFigure& figure : after) now[{figure.id, figure.placement}] = &figure;
  std::string text;
  for (const SavedFigure& was : before) {
    const auto found = now.find({was.id, was.placement});
    const std::string why = found != now.end()      ? Worse(was, *found->second)
                            : was.value.has_value() ? "not there any more"
                                                    : "";
    if (!why.empty()) absl::StrAppendFormat(&text, "%-28s %-10s %s\n", was.id, was.placement, why);
  }
  return text;
}

}  // namespace mi7::bench
