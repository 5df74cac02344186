#include "rpc/load_control.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "rpc/retry_info.h"

namespace mi7 {
namespace {

// Adds `amount` to `count` unless that exceeds `limit`; 0: there is no limit.
template <typename T>
bool Take(std::atomic<T>& count, T amount, T limit) {
  const T before = count.fetch_add(amount, std::memory_order_relaxed);
  if (limit == 0 || (amount <= limit && before <= limit - amount)) return true;
  count.fetch_sub(amount, std::memory_order_relaxed);
  return false;
}

// The same, except that what is larger than the limit is taken where there is nothing else: it
// would never be taken otherwise.
bool TakeBytes(std::atomic<uint64_t>& count, uint64_t bytes, uint64_t limit) {
  const uint64_t before = count.fetch_add(bytes, std::memory_order_relaxed);
  if (limit == 0 || before == 0 || (bytes <= limit && before <= limit - bytes)) return true;
  count.fetch_sub(bytes, std::memory_order_relaxed);
  return false;
}

}  // namespace

LoadControl::Share& LoadControl::Share::operator=(Share&& other) noexcept {
  if (this == &other) return *this;
  Release(/*succeeded=*/false);
  control_ = std::exchange(other.control_, nullptr);
  method_ = other.method_;
  connection_bytes_ = other.connection_bytes_;
  bytes_ = other.bytes_;
  started_ns_ = other.started_ns_;
  is_control_ = other.is_control_;
  measured_ = other.measured_;
  beyond_limit_ = other.beyond_limit_;
  return *this;
}

void LoadControl::Share::GiveBackAll(bool succeeded) {
  LoadControl* const control = std::exchange(control_, nullptr);
  if (method_ != nullptr) GiveBack(*method_, bytes_);
  connection_bytes_->fetch_sub(bytes_, std::memory_order_relaxed);
  control->bytes_.fetch_sub(bytes_, std::memory_order_relaxed);
  std::atomic<uint32_t>& calls = is_control_ ? control->control_calls_ : control->calls_;
  calls.fetch_sub(1, std::memory_order_relaxed);
  if (!measured_) return;
  const uint32_t in_flight = control->measured_calls_.fetch_sub(1, std::memory_order_relaxed);
  if (beyond_limit_) control->EndBeyondLimit();
  if (!succeeded) return;
  const int64_t now_ns = MonotonicNanos();
  control->adaptive_->OnSuccess(now_ns - started_ns_, in_flight, beyond_limit_, now_ns);
}

LoadControl::LoadControl(const LoadLimits& limits)
    : limits_(limits),
      too_many_calls_(Refusal("calls_max", limits.calls_max)),
      too_many_control_calls_(Refusal("control_calls_max", limits.control_calls_max)),
      too_many_bytes_(Refusal("bytes_max", limits.bytes_max)),
      too_many_connection_bytes_(Refusal("connection_bytes_max", limits.connection_bytes_max)),
      over_adaptive_limit_(WithRetryAfter(
          absl::ResourceExhaustedError("server is overloaded: over its adaptive limit of calls"),
          limits.retry_after)) {
  if (limits.adaptive.enabled) adaptive_ = std::make_unique<GradientLimit>(limits.adaptive);
}

absl::Status LoadControl::Refusal(absl::string_view what, uint64_t limit) const {
  return WithRetryAfter(absl::ResourceExhaustedError(
                            absl::StrCat("server is overloaded: load.", what, " is ", limit)),
                        limits_.retry_after);
}

absl::StatusOr<std::unique_ptr<LoadControl>> LoadControl::Create(
    const LoadLimits& limits, absl::FunctionRef<const MethodInfo*(absl::string_view name)> find) {
  std::unique_ptr<LoadControl> control(new LoadControl(limits));
  const auto unknown = [](absl::string_view list, absl::string_view name) {
    return absl::NotFoundError(
        absl::StrCat("load.", list, " names ", name, ", which no service of this server has"));
  };
  for (const MethodLoadLimit& limit : limits.methods) {
    const MethodInfo* const info = find(limit.method);
    if (info == nullptr) return unknown("methods", limit.method);
    Method& method = control->AddMethod(*info);
    if (method.limited) {
      return absl::InvalidArgumentError(
          absl::StrCat("load.methods names ", limit.method, " twice"));
    }
    method.limited = true;
    method.calls_max = limit.calls_max;
    method.bytes_max = limit.bytes_max;
    method.too_many_calls =
        control->Refusal(absl::StrCat("methods calls_max of ", limit.method), limit.calls_max);
    method.too_many_bytes =
        control->Refusal(absl::StrCat("methods bytes_max of ", limit.method), limit.bytes_max);
  }
  for (const std::string& name : limits.control_methods) {
    const MethodInfo* const info = find(name);
    if (info == nullptr) return unknown("control_methods", name);
    control->AddMethod(*info).is_control = true;
  }
  return control;
}

LoadControl::Method& LoadControl::AddMethod(const MethodInfo& info) {
  std::unique_ptr<Method>& method = methods_[{info.interface_id, info.method_id}];
  if (method == nullptr) {
    method = std::make_unique<Method>();
    method->is_control = info.priority == Priority::kControl;
  }
  return *method;
}

LoadControl::Method* LoadControl::Find(const MethodInfo* method) const {
  if (methods_.empty() || method == nullptr) return nullptr;
  const auto found = methods_.find({method->interface_id, method->method_id});
  return found == methods_.end() ? nullptr : found->second.get();
}

bool LoadControl::IsControl(const MethodInfo* method) const {
  if (method == nullptr) return false;
  if (method->priority == Priority::kControl) return true;
  const Method* const named = Find(method);
  return named != nullptr && named->is_control;
}

absl::Status LoadControl::Refuse(const absl::Status& refusal) {
  refused_.fetch_add(1, std::memory_order_relaxed);
  return refusal;
}

const absl::Status* LoadControl::TakeOf(Method& method, uint64_t bytes) {
  if (!Take(method.calls, 1u, method.calls_max)) return &method.too_many_calls;
  if (TakeBytes(method.bytes, bytes, method.bytes_max)) return nullptr;
  method.calls.fetch_sub(1, std::memory_order_relaxed);
  return &method.too_many_bytes;
}

void LoadControl::GiveBack(Method& method, uint64_t bytes) {
  method.calls.fetch_sub(1, std::memory_order_relaxed);
  method.bytes.fetch_sub(bytes, std::memory_order_relaxed);
}

bool LoadControl::TakeMeasured(bool& beyond_limit) {
  if (Take(measured_calls_, 1u, adaptive_->limit())) {
    if (next_beyond_limit_ns_.load(std::memory_order_relaxed) != 0) {
      next_beyond_limit_ns_.store(0, std::memory_order_relaxed);
    }
    return true;
  }
  const int64_t now_ns = MonotonicNanos();
  int64_t next_ns = next_beyond_limit_ns_.load(std::memory_order_relaxed);
  if (now_ns < next_ns) return false;
  const bool first_refused = next_ns == 0;
  if (!next_beyond_limit_ns_.compare_exchange_strong(next_ns, now_ns + adaptive_->patience_ns(),
                                                     std::memory_order_relaxed)) {
    return false;
  }
  if (first_refused) return false;
  beyond_limit = Take(measured_calls_, 1u, limits_.adaptive.calls_max);
  return beyond_limit;
}

// The next one may come at once, unless there has been room.
void LoadControl::EndBeyondLimit() {
  int64_t next_ns = next_beyond_limit_ns_.load(std::memory_order_relaxed);
  if (next_ns == 0) return;
  next_beyond_limit_ns_.compare_exchange_strong(next_ns, 1, std::memory_order_relaxed);
}

absl::Status LoadControl::Admit(const MethodInfo* method, uint64_t bytes,
                                std::atomic<uint64_t>& connection_bytes, Share& share) {
  Method* const named = Find(method);
  const bool is_control = IsControl(method);
  // How long a stream lasts is its users' affair. It takes no room of the adaptive limit either:
  // else streams that stay would leave nothing by which that could grow. Which other calls stay
  // nobody can tell beforehand: TakeMeasured.
  const bool measured = adaptive_ != nullptr && !is_control && method != nullptr &&
                        method->kind == MethodKind::kUnary;
  bool beyond_limit = false;
  if (is_control) {
    if (!Take(control_calls_, 1u, limits_.control_calls_max)) {
      return Refuse(too_many_control_calls_);
    }
  } else {
    if (!Take(calls_, 1u, limits_.calls_max)) return Refuse(too_many_calls_);
    if (measured && !TakeMeasured(beyond_limit)) {
      calls_.fetch_sub(1, std::memory_order_relaxed);
      return Refuse(over_adaptive_limit_);
    }
  }
  const auto give_back_call = [&] {
    (is_control ? control_calls_ : calls_).fetch_sub(1, std::memory_order_relaxed);
    if (measured) measured_calls_.fetch_sub(1, std::memory_order_relaxed);
    if (beyond_limit) EndBeyondLimit();
  };
  Method* const limited = named != nullptr && named->limited ? named : nullptr;
  if (limited != nullptr) {
    if (const absl::Status* const refusal = TakeOf(*limited, bytes); refusal != nullptr) {
      give_back_call();
      return Refuse(*refusal);
    }
  }
  // A control call's bytes are counted, so that others see them, and limited by its number only.
  const bool in_connection =
      TakeBytes(connection_bytes, bytes, is_control ? 0 : limits_.connection_bytes_max);
  const bool in_server =
      in_connection && TakeBytes(bytes_, bytes, is_control ? 0 : limits_.bytes_max);
  if (!in_server) {
    if (in_connection) connection_bytes.fetch_sub(bytes, std::memory_order_relaxed);
    if (limited != nullptr) GiveBack(*limited, bytes);
    give_back_call();
    return Refuse(in_connection ? too_many_bytes_ : too_many_connection_bytes_);
  }
  share.Release(/*succeeded=*/false);
  share.control_ = this;
  share.method_ = limited;
  share.connection_bytes_ = &connection_bytes;
  share.bytes_ = bytes;
  share.is_control_ = is_control;
  share.measured_ = measured;
  share.beyond_limit_ = beyond_limit;
  if (measured) share.started_ns_ = MonotonicNanos();
  return absl::OkStatus();
}

LoadFigures LoadControl::figures() const {
  LoadFigures figures;
  figures.calls = calls_.load(std::memory_order_relaxed);
  figures.control_calls = control_calls_.load(std::memory_order_relaxed);
  figures.bytes = bytes_.load(std::memory_order_relaxed);
  figures.refused = refused_.load(std::memory_order_relaxed);
  if (adaptive_ != nullptr) figures.adaptive_limit = adaptive_->limit();
  return figures;
}

}  // namespace mi7
