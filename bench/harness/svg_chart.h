#pragma once

// Line charts as inline SVG: text that needs nothing else to be looked at.

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace mi7::bench {

// Replaces what has a meaning in HTML.
std::string EscapeHtml(const std::string& text);

struct SvgChart {
  enum class XScale {
    kLogarithmic,
    // Shares from 0 to 1, stretched towards 1: 0, 0.9, 0.99, ... are equally far from each other.
    kTail,
  };
  struct Series {
    std::string name;
    std::vector<std::pair<double, double>> points;  // x, y; in the order of x
  };

  std::string title;
  std::string x_title;
  XScale x_scale = XScale::kLogarithmic;
  // Both for people: of the ticks, and of a point that is pointed at.
  std::function<std::string(double)> x_text;
  std::function<std::string(double)> y_text;
  std::vector<Series> series;  // the y axis is logarithmic; points at or below 0 are left out

  // An <svg> element; empty when there is no point at all.
  std::string Render() const;
};

}  // namespace mi7::bench
