#pragma once

// How a thread and a coroutine select among cases: SelectAmong and SelectAwaiter. See select.h.

#include <coroutine>
#include <memory>
#include <type_traits>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "channels/case.h"
#include "channels/wait.h"
#include "transport/event_loop.h"

namespace mi7::channels_internal {

// Whether a case can be waited for by threads only.
template <typename C>
inline constexpr bool NeedsThread = requires {
  requires std::remove_reference_t<C>::kNeedsThread;
};

// `wait` false: UNAVAILABLE when nothing can be done at once.
absl::Status SelectAmong(absl::Span<Case* const> cases, bool wait);

// What SelectOn makes.
class [[nodiscard]] SelectAwaiter final : Suspended {
 public:
  using Cases = absl::InlinedVector<Case*, 6>;
  SelectAwaiter(transport::EventLoop* loop, Cases cases);
  SelectAwaiter(const SelectAwaiter&) = delete;
  SelectAwaiter& operator=(const SelectAwaiter&) = delete;
  ~SelectAwaiter();

  bool await_ready() { return TryAll(); }
  bool await_suspend(std::coroutine_handle<> coroutine) {
    coroutine_ = coroutine;
    return WaitForAll();
  }
  absl::Status await_resume();

 private:
  // True when it is decided what await_resume will do.
  bool TryAll();
  bool TakeOutcome();
  // True when a wait was entered that has not ended: nothing of this object may be touched then.
  // False when it is decided.
  bool WaitForAll();
  void OnFinished() override;

  transport::EventLoop* const loop_;
  const Cases cases_;
  std::coroutine_handle<> coroutine_;
  std::shared_ptr<CoroutineWait> wait_;
  Case* done_ = nullptr;
  absl::Status status_;
};

}  // namespace mi7::channels_internal
