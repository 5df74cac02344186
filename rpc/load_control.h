#pragma once

// LoadControl: how much a server takes on at a time, LoadLimits (base/limits.h) at work. A server
// without limits has none.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/limits.h"
#include "rpc/gradient_limit.h"
#include "rpc/interface_info.h"

namespace mi7 {

// What a server has in flight at a moment, and what it refused.
struct LoadFigures {
  uint32_t calls = 0;           // of normal priority
  uint32_t control_calls = 0;   // of control priority
  uint64_t bytes = 0;           // of the requests of both
  uint64_t refused = 0;         // calls, since the start
  uint32_t adaptive_limit = 0;  // AdaptiveLimit's, at this moment; 0: there is none
};

// Thread-safe.
//
// Memory ordering: every count is changed by single read-modify-writes, of which each sees the one
// before it, and is compared with nothing but its limit; what a call has done reaches the next one
// by other means. So they are relaxed. A count is raised first, and lowered again when that was too
// much: it never admits more than its limit, but two calls that arrive at the same moment may both
// be refused where there was room for one. When the next call comes in beyond the adaptive limit is
// no count: where two threads change it at the same moment one call comes later, or earlier.
class LoadControl {
  struct Method;

 public:
  // A call's share of what is in flight, given back once: by Release, or at the end.
  class Share {
   public:
    Share() = default;
    Share(Share&& other) noexcept { *this = std::move(other); }
    Share& operator=(Share&& other) noexcept;
    ~Share() { Release(/*succeeded=*/false); }

    // The call is over. Comes before its answer is sent, so that a caller who makes one call after
    // another needs room for one. `succeeded`: how long it took tells something.
    void Release(bool succeeded) {
      if (control_ != nullptr) GiveBackAll(succeeded);
    }

   private:
    friend class LoadControl;
    void GiveBackAll(bool succeeded);
    LoadControl* control_ = nullptr;  // nullptr: nothing is held
    Method* method_ = nullptr;        // nullptr: it has no limits of its own
    std::atomic<uint64_t>* connection_bytes_ = nullptr;
    uint64_t bytes_ = 0;
    int64_t started_ns_ = 0;  // with an adaptive limit
    bool is_control_ = false;
    bool measured_ = false;
    bool beyond_limit_ = false;  // the adaptive one
  };

  // `find`: the server's method with a name, nullptr when it has none.
  // NOT_FOUND: `limits` names a method that there is not. INVALID_ARGUMENT: it limits one twice.
  static absl::StatusOr<std::unique_ptr<LoadControl>> Create(
      const LoadLimits& limits, absl::FunctionRef<const MethodInfo*(absl::string_view name)> find);

  // Whether calls of `method` have control priority; nullptr: of a method that there is not.
  bool IsControl(const MethodInfo* method) const;
  // What callers that are refused are told to wait.
  absl::Duration retry_after() const { return limits_.retry_after; }

  // A call of `method` arrived with a request of `bytes`. OK: it has its `share`, which lives no
  // longer than this and `connection_bytes`, the bytes that its connection has in flight.
  // RESOURCE_EXHAUSTED, with advice when to try again: the limit that it exceeds.
  absl::Status Admit(const MethodInfo* method, uint64_t bytes,
                     std::atomic<uint64_t>& connection_bytes, Share& share);

  LoadFigures figures() const;

 private:
  struct Method {
    bool is_control = false;
    bool limited = false;    // else nothing is counted
    uint32_t calls_max = 0;  // 0: no limit
    uint64_t bytes_max = 0;  // 0: no limit
    std::atomic<uint32_t> calls{0};
    std::atomic<uint64_t> bytes{0};
    absl::Status too_many_calls;
    absl::Status too_many_bytes;
  };
  using MethodKey = std::pair<uint64_t, uint16_t>;  // interface, ordinal

  explicit LoadControl(const LoadLimits& limits);
  Method* Find(const MethodInfo* method) const;
  Method& AddMethod(const MethodInfo& info);
  absl::Status Refuse(const absl::Status& refusal);
  // Counts a call of `method`; when it exceeds the method's limits nothing, and gives the refusal.
  static const absl::Status* TakeOf(Method& method, uint64_t bytes);
  static void GiveBack(Method& method, uint64_t bytes);
  absl::Status Refusal(absl::string_view what, uint64_t limit) const;
  // Counts a call that the adaptive limit is for. Where that has had no room for long, one at a
  // time is let in `beyond_limit`, which EndBeyondLimit ends.
  bool TakeMeasured(bool& beyond_limit);
  void EndBeyondLimit();

  const LoadLimits limits_;
  // Those that the limits name; constant once created.
  absl::flat_hash_map<MethodKey, std::unique_ptr<Method>> methods_;
  std::unique_ptr<GradientLimit> adaptive_;
  // Made once: an overloaded server has no time for texts.
  const absl::Status too_many_calls_;
  const absl::Status too_many_control_calls_;
  const absl::Status too_many_bytes_;
  const absl::Status too_many_connection_bytes_;
  const absl::Status over_adaptive_limit_;

  std::atomic<uint32_t> calls_{0};
  std::atomic<uint32_t> measured_calls_{0};  // those of calls_ that the adaptive limit counts
  // When the next call is let in beyond the adaptive limit, MonotonicNanos(); 0: that has room, or
  // has refused none since it had.
  std::atomic<int64_t> next_beyond_limit_ns_{0};
  std::atomic<uint32_t> control_calls_{0};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> refused_{0};
};

}  // namespace mi7
