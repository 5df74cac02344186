#pragma once

// Counts calls by method and status code, and how long they took.
//
//   auto metrics = std::make_shared<mi7::CallMetrics>();
//   options.interceptors = {metrics};       // of any number of channels and servers
//   for (const auto& method : metrics->Snapshot()) ...
//   SendToPrometheus(metrics->PrometheusText());

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "rpc/interceptor.h"
#include "rpc/interceptors/latency_histogram.h"

namespace mi7 {

// Thread-safe. A call costs a few uncontended atomic additions and no allocation once its method is
// known. Takes memory for each method that was called, of which it tells methods_max apart (about
// 5 KiB each); the calls of further ones are counted together, as "other".
class CallMetrics final : public Interceptor {
 public:
  static constexpr size_t kMethodsMaxDefault = 1024;
  static constexpr size_t kCodes = 17;

  explicit CallMetrics(size_t methods_max = kMethodsMaxDefault);
  ~CallMetrics() override;

  // What was counted of one method on one side. Calls that are made meanwhile may be in one number
  // and not yet in another.
  struct Method {
    InterceptedCall::Side side;
    std::string name;  // "Calculator.add"
    uint64_t started = 0;
    std::array<uint64_t, kCodes> ended{};  // by absl::StatusCode
    LatencyHistogram latency;              // of those that ended
    uint64_t in_flight() const;
    uint64_t ended_with(absl::StatusCode code) const { return ended[static_cast<size_t>(code)]; }
  };
  // In the order in which the methods were first called. Methods of one name, of interfaces that
  // have the same name in different files, are counted together.
  std::vector<Method> Snapshot() const;

  // Snapshot() in Prometheus' text format, version 0.0.4: mi7_calls_started_total,
  // mi7_calls_ended_total (by code), mi7_calls_in_flight, mi7_call_latency_seconds (a histogram).
  std::string PrometheusText() const;

  // --- Interceptor ---
  void OnStart(InterceptedCall& call) override;
  void OnEnd(InterceptedCall& call) override;

 private:
  struct Counters;
  struct Entry;
  // Never fails: gives the one for other methods when there is no room.
  Entry& EntryOf(const InterceptedCall& call);

  const size_t methods_max_;
  std::atomic<size_t> method_count_{0};  // at most methods_max_; a count, orders nothing
  std::atomic<size_t> next_number_{0};   // the same
  // An open hash table that never becomes more than half full; an entry stays where it was put. Its
  // pointers are published with release and read with acquire.
  std::vector<std::atomic<Entry*>> slots_;
  const std::array<std::unique_ptr<Entry>, 2> other_;  // by side
};

}  // namespace mi7
