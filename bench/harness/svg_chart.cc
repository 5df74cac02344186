#include "bench/harness/svg_chart.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mi7::bench {
namespace {

constexpr double kWidth = 900;
constexpr double kHeight = 430;
constexpr double kLeft = 78;
constexpr double kRight = 215;  // the legend's room
constexpr double kTop = 38;
constexpr double kBottom = 52;
constexpr double kLegendStep = 19;

// Far apart for most eyes; the first ones are mi7's in most charts.
constexpr const char* kColours[] = {"#0b5fd0", "#d9480f", "#2b8a3e", "#ae3ec9",
                                    "#e0a100", "#0c8599", "#c2255c", "#5c940d",
                                    "#6741d9", "#868e96", "#a0522d", "#1c3d5a"};

// Where a share stands on a tail scale: 0, 1, 2 for 0, 0.9, 0.99.
double TailOf(double share) { return -std::log10(1 - std::min(share, 0.99999)); }

// An axis: from what is measured to a place between 0 and 1.
struct Axis {
  double low = 0;  // transformed
  double high = 1;
  double Place(double transformed) const { return (transformed - low) / (high - low); }
};

Axis Around(double low, double high) {
  if (high - low < 0.3) return {low - 0.15, high + 0.15};
  const double room = 0.03 * (high - low);
  return {low - room, high + room};
}

// 1, 2 and 5 times powers of ten, or on a short axis all their multiples, so that there are a few
// in it.
std::vector<double> LogarithmicTicks(const Axis& axis) {
  std::vector<double> ticks;
  const double decades = axis.high - axis.low;
  for (int exponent = static_cast<int>(std::floor(axis.low)); exponent <= axis.high; ++exponent) {
    for (int factor = 1; factor <= 9; ++factor) {
      if (factor > 1 && decades > 3.5) continue;
      if (decades > 0.7 && factor != 1 && factor != 2 && factor != 5) continue;
      const double value = factor * std::pow(10.0, exponent);
      const double place = axis.Place(std::log10(value));
      if (place >= 0 && place <= 1) ticks.push_back(value);
    }
  }
  return ticks;
}

// What the points of a chart need to become places on it.
class Canvas {
 public:
  explicit Canvas(const SvgChart& chart) : chart_(chart) {
    bool any = false;
    double x_low = 0;
    double x_high = 0;
    double y_low = 0;
    double y_high = 0;
    for (const SvgChart::Series& series : chart.series) {
      for (const auto& [x, y] : series.points) {
        if (y <= 0) continue;
        const double tx = TransformX(x);
        const double ty = std::log10(y);
        x_low = any ? std::min(x_low, tx) : tx;
        x_high = any ? std::max(x_high, tx) : tx;
        y_low = any ? std::min(y_low, ty) : ty;
        y_high = any ? std::max(y_high, ty) : ty;
        any = true;
      }
    }
    empty_ = !any;
    x_ = Around(x_low, x_high);
    y_ = Around(y_low, y_high);
  }

  bool empty() const { return empty_; }
  double X(double x) const { return kLeft + x_.Place(TransformX(x)) * (kWidth - kLeft - kRight); }
  double Y(double y) const {
    return kHeight - kBottom - y_.Place(std::log10(y)) * (kHeight - kTop - kBottom);
  }

  std::string Grid() const {
    std::string svg;
    for (double y : LogarithmicTicks(y_)) {
      absl::StrAppendFormat(&svg,
                            "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' class='grid'/>"
                            "<text x='%.1f' y='%.1f' text-anchor='end'>%s</text>\n",
                            kLeft, kWidth - kRight, Y(y), Y(y), kLeft - 6, Y(y) + 4,
                            EscapeHtml(chart_.y_text(y)));
    }
    for (double x : XTicks()) {
      absl::StrAppendFormat(&svg,
                            "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' class='grid'/>"
                            "<text x='%.1f' y='%.1f' text-anchor='middle'>%s</text>\n",
                            X(x), X(x), kTop, kHeight - kBottom, X(x), kHeight - kBottom + 17,
                            EscapeHtml(chart_.x_text(x)));
    }
    return svg;
  }

 private:
  double TransformX(double x) const {
    return chart_.x_scale == SvgChart::XScale::kTail ? TailOf(x) : std::log10(std::max(x, 1e-9));
  }
  std::vector<double> XTicks() const {
    if (chart_.x_scale == SvgChart::XScale::kTail) return {0, 0.5, 0.9, 0.99, 0.999, 0.9999};
    // The points themselves, where they leave room for their text.
    std::vector<double> ticks;
    for (const SvgChart::Series& series : chart_.series) {
      for (const auto& point : series.points) ticks.push_back(point.first);
    }
    std::sort(ticks.begin(), ticks.end());
    std::vector<double> kept;
    for (double tick : ticks) {
      if (kept.empty() || X(tick) - X(kept.back()) > 46) kept.push_back(tick);
    }
    return kept;
  }

  const SvgChart& chart_;
  Axis x_;
  Axis y_;
  bool empty_ = false;
};

std::string Curve(const SvgChart& chart, const Canvas& canvas, size_t index) {
  const SvgChart::Series& series = chart.series[index];
  const char* const colour = kColours[index % std::size(kColours)];
  // Twice around the colours, the second time dashed.
  const char* const dash = index < std::size(kColours) ? "" : " stroke-dasharray='5 4'";
  std::string line;
  std::string dots;
  for (const auto& [x, y] : series.points) {
    if (y <= 0) continue;
    absl::StrAppendFormat(&line, "%.1f,%.1f ", canvas.X(x), canvas.Y(y));
    absl::StrAppendFormat(&dots,
                          "<circle cx='%.1f' cy='%.1f' r='3' fill='%s'><title>%s: %s at %s</title>"
                          "</circle>",
                          canvas.X(x), canvas.Y(y), colour, EscapeHtml(series.name),
                          EscapeHtml(chart.y_text(y)), EscapeHtml(chart.x_text(x)));
  }
  const double y = kTop + 8 + kLegendStep * static_cast<double>(index);
  const double x = kWidth - kRight + 14;
  return absl::StrFormat(
      "<polyline points='%s' fill='none' stroke='%s' stroke-width='2'%s/>%s\n"
      "<line x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f' stroke='%s' stroke-width='3'%s/>"
      "<text x='%.1f' y='%.1f'>%s</text>\n",
      line, colour, dash, dots, x, x + 18, y, y, colour, dash, x + 24, y + 4,
      EscapeHtml(series.name));
}

}  // namespace

std::string EscapeHtml(const std::string& text) {
  std::string escaped;
  for (char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      default:
        escaped.push_back(c);
    }
  }
  return escaped;
}

std::string SvgChart::Render() const {
  const Canvas canvas(*this);
  if (canvas.empty()) return "";
  std::string svg = absl::StrFormat(
      "<svg viewBox='0 0 %.0f %.0f' role='img' aria-label='%s'>\n"
      "<text x='%.0f' y='20' class='title'>%s</text>\n",
      kWidth, kHeight, EscapeHtml(title), kLeft, EscapeHtml(title));
  absl::StrAppend(&svg, canvas.Grid());
  absl::StrAppendFormat(&svg, "<text x='%.1f' y='%.1f' text-anchor='middle'>%s</text>\n",
                        (kLeft + kWidth - kRight) / 2, kHeight - 12, EscapeHtml(x_title));
  for (size_t i = 0; i < series.size(); ++i) absl::StrAppend(&svg, Curve(*this, canvas, i));
  return svg + "</svg>\n";
}

}  // namespace mi7::bench
