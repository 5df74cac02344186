#pragma once

// Select: waits for the first of several things, does it, and calls its handler.
//
//   using namespace mi7::channels;
//   while (Select(OnReceive(orders, [&](Order order) { Book(order); }),
//                 OnReceive(queries, [&](Query query) { Answer(query); }),
//                 OnDeadline(next_report, [&] { next_report = Report(); })).ok()) {
//   }                              // until both channels are closed
//
// Exactly one of the things is done in a call. When several can be done at once, one of them is
// taken at random, so that none has to wait for ever. A case of a closed channel is passed over;
// OnClosed waits for the closing itself. Slot pipes: see pipe_cases.h. The result:
//
//   OK                   something was done, and its handler has returned
//   CANCELLED            everything but deadlines is closed, or there is nothing
//   UNAVAILABLE          nothing could be done at once (TrySelect)
//   what a slot pipe says that has failed
//
// Handlers run on the thread, or in the coroutine, that selects, under no lock, and may throw
// through it.

#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/deadline.h"
#include "channels/case.h"
#include "channels/channel.h"
#include "channels/channel_cases.h"
#include "channels/select_awaiter.h"
#include "transport/event_loop.h"

namespace mi7::channels {

// --- Cases. Temporaries in the call of Select, as above, or objects that are used again. An end
// without a channel (default-made) is as closed.

using channels_internal::Case;

// A value: handler(T).
template <typename T, typename Handler>
channels_internal::ReceiveCase<T, Handler> OnReceive(const Receiver<T>& receiver, Handler handler) {
  return {channels_internal::StateOf::Get(receiver), std::move(handler)};
}
// Room for `value`, which is moved from only when this is what is done: handler().
template <typename T, typename Handler>
channels_internal::SendCase<T, Handler> OnSend(const Sender<T>& sender,
                                               std::type_identity_t<T>&& value, Handler handler) {
  return {channels_internal::StateOf::Get(sender), value, std::move(handler)};
}
// The channel is closed, and everything was received: handler(). The way to tell many to stop is a
// channel that nothing is sent to.
template <typename T, typename Handler>
channels_internal::ClosedCase<T, Handler> OnClosed(const Receiver<T>& receiver, Handler handler) {
  return {channels_internal::StateOf::Get(receiver), std::move(handler)};
}
// The deadline has passed, and nothing else was there before: handler().
template <typename Handler>
channels_internal::DeadlineCase<Handler> OnDeadline(Deadline deadline, Handler handler) {
  return {deadline, std::move(handler)};
}

// --- Select

// On a thread: waits.
template <typename... Cases>
absl::Status Select(Cases&&... cases) {
  Case* const all[] = {&cases...};
  return channels_internal::SelectAmong(all, true);
}
// On a thread: does what can be done at once.
template <typename... Cases>
absl::Status TrySelect(Cases&&... cases) {
  Case* const all[] = {&cases...};
  return channels_internal::SelectAmong(all, false);
}
// In a coroutine: co_await SelectOn(...), at once. What can be done at once is done without
// suspending; else the coroutine goes on on `loop`. It may be destroyed while it waits, on the
// loop's thread: then no handler runs, and what was received for it goes to others; but a value of
// OnSend that a receiver or the channel has taken stays sent.
template <typename... Cases>
channels_internal::SelectAwaiter SelectOn(transport::EventLoop* loop, Cases&&... cases) {
  static_assert(!(channels_internal::NeedsThread<Cases> || ...),
                "a coroutine waits for a slot pipe through an AsyncSlotPipe");
  return channels_internal::SelectAwaiter(loop, {&cases...});
}

// The same for cases whose number is not known when this is compiled.
inline absl::Status SelectAmong(absl::Span<Case* const> cases) {
  return channels_internal::SelectAmong(cases, true);
}
inline absl::Status TrySelectAmong(absl::Span<Case* const> cases) {
  return channels_internal::SelectAmong(cases, false);
}
inline channels_internal::SelectAwaiter SelectAmongOn(transport::EventLoop* loop,
                                                      absl::Span<Case* const> cases) {
  return channels_internal::SelectAwaiter(loop, {cases.begin(), cases.end()});
}

}  // namespace mi7::channels
