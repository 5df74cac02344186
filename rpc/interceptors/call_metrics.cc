#include "rpc/interceptors/call_metrics.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace mi7 {
namespace {

using Side = InterceptedCall::Side;

// Threads count in different cache lines, as long as they are not many more than these.
constexpr size_t kShards = 4;

size_t ThisThreadsShard() {
  static std::atomic<size_t> next{0};
  thread_local const size_t shard = next.fetch_add(1, std::memory_order_relaxed) % kShards;
  return shard;
}

// Nothing depends on when the others see it.
void Count(std::atomic<uint64_t>& counter, uint64_t by = 1) {
  counter.fetch_add(by, std::memory_order_relaxed);
}

absl::string_view SideName(Side side) { return side == Side::kClient ? "client" : "server"; }

uint64_t HashOf(const MethodInfo& method) {
  // Interface ids are random; Fibonacci hashing spreads the ordinals.
  return (method.interface_id + method.method_id) * 0x9e3779b97f4a7c15;
}

}  // namespace

// One thread's share of what is counted of one method.
struct alignas(64) CallMetrics::Counters {
  std::atomic<uint64_t> started{0};
  std::atomic<uint64_t> sum_ns{0};
  std::array<std::atomic<uint64_t>, kCodes> ended{};
  std::array<std::atomic<uint64_t>, LatencyHistogram::kBuckets> latency{};
};

struct CallMetrics::Entry {
  Entry(Side of_side, uint64_t interface, uint16_t ordinal, const char* of_name)
      : side(of_side), interface_id(interface), method_id(ordinal), name(of_name) {}

  const Side side;
  const uint64_t interface_id;
  const uint16_t method_id;
  const std::string name;
  size_t number = 0;  // in the order of their making
  std::array<Counters, kShards> counters;
};

CallMetrics::CallMetrics(size_t methods_max)
    : methods_max_(methods_max),
      slots_(2 * methods_max + 1),
      other_{std::make_unique<Entry>(Side::kClient, 0, 0, "other"),
             std::make_unique<Entry>(Side::kServer, 0, 0, "other")} {}

CallMetrics::~CallMetrics() {
  for (std::atomic<Entry*>& slot : slots_) delete slot.load(std::memory_order_relaxed);
}

CallMetrics::Entry& CallMetrics::EntryOf(const InterceptedCall& call) {
  const MethodInfo& method = call.method();
  const Side side = call.side();
  std::unique_ptr<Entry> made;
  for (size_t at = HashOf(method) % slots_.size();; at = (at + 1) % slots_.size()) {
    // acquire: what the entry's maker wrote is seen.
    Entry* entry = slots_[at].load(std::memory_order_acquire);
    if (entry == nullptr) {
      if (made == nullptr) {
        // The table has at least one slot that stays free, at which a search ends.
        if (method_count_.fetch_add(1, std::memory_order_relaxed) >= methods_max_) {
          method_count_.fetch_sub(1, std::memory_order_relaxed);
          return *other_[static_cast<size_t>(side)];
        }
        made = std::make_unique<Entry>(side, method.interface_id, method.method_id, method.name);
        made->number = next_number_.fetch_add(1, std::memory_order_relaxed);
      }
      if (slots_[at].compare_exchange_strong(entry, made.get(), std::memory_order_acq_rel)) {
        return *made.release();
      }
      // Another thread was first here; it may be the same method.
    }
    if (entry->side == side && entry->interface_id == method.interface_id &&
        entry->method_id == method.method_id) {
      if (made != nullptr) method_count_.fetch_sub(1, std::memory_order_relaxed);
      return *entry;
    }
  }
}

void CallMetrics::OnStart(InterceptedCall& call) {
  Count(EntryOf(call).counters[ThisThreadsShard()].started);
}

void CallMetrics::OnEnd(InterceptedCall& call) {
  Counters& counters = EntryOf(call).counters[ThisThreadsShard()];
  const int64_t ns = std::max<int64_t>(0, absl::ToInt64Nanoseconds(call.elapsed()));
  Count(counters.ended[static_cast<size_t>(call.status().code())]);
  Count(counters.latency[LatencyHistogram::BucketOf(ns)]);
  Count(counters.sum_ns, static_cast<uint64_t>(ns));
}

uint64_t CallMetrics::Method::in_flight() const {
  // What ended is read first: it can lag, but not lead.
  return started - std::min(started, latency.count());
}

std::vector<CallMetrics::Method> CallMetrics::Snapshot() const {
  std::vector<const Entry*> entries;
  for (const std::atomic<Entry*>& slot : slots_) {
    if (const Entry* entry = slot.load(std::memory_order_acquire)) entries.push_back(entry);
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->number < b->number; });
  for (const auto& other : other_) entries.push_back(other.get());

  std::vector<Method> methods;
  for (const Entry* entry : entries) {
    auto found = std::find_if(methods.begin(), methods.end(), [entry](const Method& method) {
      return method.side == entry->side && method.name == entry->name;
    });
    if (found == methods.end()) {
      found = methods.emplace(methods.end());
      found->side = entry->side;
      found->name = entry->name;
    }
    Method& method = *found;
    for (const Counters& counters : entry->counters) {
      for (size_t code = 0; code < kCodes; ++code) {
        method.ended[code] += counters.ended[code].load(std::memory_order_relaxed);
      }
      for (size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
        method.latency.Add(bucket, counters.latency[bucket].load(std::memory_order_relaxed));
      }
      method.latency.AddSum(counters.sum_ns.load(std::memory_order_relaxed));
      method.started += counters.started.load(std::memory_order_relaxed);
    }
  }
  std::erase_if(methods, [](const Method& method) { return method.started == 0; });
  return methods;
}

namespace {

// side="client",method="Calculator.add"
std::string Labels(const CallMetrics::Method& method) {
  return absl::StrCat(
      "side=\"", SideName(method.side), "\",method=\"",
      absl::StrReplaceAll(method.name, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
}

void AppendHelp(absl::string_view name, absl::string_view type, absl::string_view help,
                std::string& text) {
  absl::StrAppend(&text, "# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
}

// All digits: the sum of a server's latencies has more than a double's usual six.
std::string Seconds(uint64_t ns) {
  constexpr uint64_t kSecond = 1'000'000'000;
  return absl::StrCat(ns / kSecond, ".", absl::Dec(ns % kSecond, absl::kZeroPad9));
}

// A bucket for every second octave from 1 us on: enough to see, and not too much to keep.
void AppendHistogram(const CallMetrics::Method& method, std::string& text) {
  constexpr absl::string_view kName = "mi7_call_latency_seconds";
  const std::string labels = Labels(method);
  uint64_t seen = 0;
  for (size_t bucket = 0; bucket < LatencyHistogram::kBuckets; ++bucket) {
    seen += method.latency.count_in(bucket);
    const int64_t end = LatencyHistogram::EndOf(bucket);
    const bool told = end >= 1024 && std::has_single_bit(static_cast<uint64_t>(end)) &&
                      std::countr_zero(static_cast<uint64_t>(end)) % 2 == 0;
    if (!told) continue;
    absl::StrAppend(&text, kName, "_bucket{", labels, ",le=\"", Seconds(static_cast<uint64_t>(end)),
                    "\"} ", seen, "\n");
  }
  absl::StrAppend(&text, kName, "_bucket{", labels, ",le=\"+Inf\"} ", method.latency.count(), "\n");
  absl::StrAppend(&text, kName, "_sum{", labels, "} ", Seconds(method.latency.sum_ns()), "\n");
  absl::StrAppend(&text, kName, "_count{", labels, "} ", method.latency.count(), "\n");
}

}  // namespace

std::string CallMetrics::PrometheusText() const {
  const std::vector<Method> methods = Snapshot();
  std::string text;
  AppendHelp("mi7_calls_started_total", "counter", "Calls that began.", text);
  for (const Method& method : methods) {
    absl::StrAppend(&text, "mi7_calls_started_total{", Labels(method), "} ", method.started, "\n");
  }
  AppendHelp("mi7_calls_ended_total", "counter", "Calls that ended, by status code.", text);
  for (const Method& method : methods) {
    for (size_t code = 0; code < kCodes; ++code) {
      if (method.ended[code] == 0) continue;
      absl::StrAppend(&text, "mi7_calls_ended_total{", Labels(method), ",code=\"",
                      absl::StatusCodeToString(static_cast<absl::StatusCode>(code)), "\"} ",
                      method.ended[code], "\n");
    }
  }
  AppendHelp("mi7_calls_in_flight", "gauge", "Calls that began and have not ended.", text);
  for (const Method& method : methods) {
    absl::StrAppend(&text, "mi7_calls_in_flight{", Labels(method), "} ", method.in_flight(), "\n");
  }
  AppendHelp("mi7_call_latency_seconds", "histogram", "How long calls took.", text);
  for (const Method& method : methods) AppendHistogram(method, text);
  return text;
}

}  // namespace mi7
