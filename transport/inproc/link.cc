#include "transport/inproc/link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/callback_scope.h"
#include "transport/message_queue.h"

namespace mi7::transport::inproc {
namespace {

// How long a message may lie that somebody was expected to come for.
constexpr absl::Duration kLazyPeriod = absl::Milliseconds(1);

// A loop that has run so many callbacks of one side looks after others first.
constexpr int kCallbacksPerPump = 64;

Limits Narrower(const Limits& own, const Limits& other) {
  Limits limits = own;
  limits.message_bytes_max = std::min(own.message_bytes_max, other.message_bytes_max);
  limits.extra_bytes_max = std::min(own.extra_bytes_max, other.extra_bytes_max);
  limits.segments_max = std::min(own.segments_max, other.segments_max);
  return limits;
}

}  // namespace

constinit thread_local Link::Frame* Link::await_frames_ = nullptr;

// Nothing is held back.
class Link::SideCallback final : public CallbackScope {
 public:
  explicit SideCallback(const Side& side) : CallbackScope(&side) {}

 private:
  void Flush() override {}
};

class Link::FrameScope {
 public:
  FrameScope(const Side& side, bool drives_other) : frame_{&side, await_frames_, drives_other} {
    await_frames_ = &frame_;
  }
  ~FrameScope() { await_frames_ = frame_.outer; }
  static const Frame* Find(const Frame* frames, const Side& side) {
    while (frames != nullptr && frames->side != &side) frames = frames->outer;
    return frames;
  }

 private:
  Frame frame_;
};

Link::Side::Side(Link* of_link, SideOptions options)
    : link(of_link),
      loop(options.loop),
      limits(options.limits),
      wait(options.wait),
      accepted(options.accepted),
      while_open(std::move(options.while_open)),
      awaits(!options.accepted),
      instance(options.instance) {}

Link::Link(std::string endpoint, SideOptions connector, SideOptions acceptor)
    : endpoint_(std::move(endpoint)),
      sides_{{Side(this, std::move(connector)), Side(this, std::move(acceptor))}} {
  for (Side& side : sides_) side.send_limits = Narrower(side.limits, Other(side).limits);
}

Link::~Link() = default;

bool Link::HasEnd(const Side& side) {
  switch (side.state.load(std::memory_order_relaxed)) {
    case State::kOpen:
      return side.started && side.inbox.empty() &&
             Other(side).state.load(std::memory_order_relaxed) != State::kOpen;
    case State::kClosing:
      return true;
    case State::kClosed:
      return false;
  }
  return false;
}

void Link::Start(Which which, std::shared_ptr<Receiver> receiver) {
  Side& side = sides_[which];
  MutexLock lock(&mutex_);
  MI7_CHECK(!side.started && receiver != nullptr, "a connection is started once");
  if (side.state.load(std::memory_order_relaxed) == State::kClosed) return;
  side.receiver = std::move(receiver);
  side.started = true;
  if (HasCallback(side) || HasEnd(side)) PostPump(side);
}

absl::Status Link::Closed(const Side& side) {
  const Side& ended =
      side.state.load(std::memory_order_relaxed) == State::kOpen ? Other(side) : side;
  return absl::UnavailableError(absl::StrCat("connection over ", endpoint_,
                                             &ended == &side ? " is closed" : ": peer closed",
                                             ended.why.ok() ? "" : ": ", ended.why.message()));
}

absl::Status Link::QueueFull(Side& side) {
  side.writable_wanted = true;
  return QueueFullError(
      absl::StrCat("connection over ", endpoint_, " has ", Other(side).inbox_count().weight(),
                   " bytes queued that the peer has not taken; limits.queued_bytes_max is ",
                   side.limits.queued_bytes_max));
}

absl::StatusOr<OutgoingMessage> Link::Reserve(Which which, size_t bytes) {
  Side& side = sides_[which];
  Side& other = Other(side);
  if (!IsOpen(side, other) || !IsBelowBound(side, other)) [[unlikely]] {
    if (absl::Status why = RefuseReserve(side); !why.ok()) return why;
  }
  return NewHeapMessage(bytes);
}

absl::Status Link::RefuseReserve(Side& side) {
  const Side& other = Other(side);
  MutexLock lock(&mutex_);
  if (!IsOpen(side, other)) return Closed(side);
  return IsBelowBound(side, other) ? absl::OkStatus() : QueueFull(side);
}

bool Link::HasRoom(Which which) {
  Side& side = sides_[which];
  Side& other = Other(side);
  if (other.inbox_count().HasRoom(side.limits)) [[likely]]
    return true;
  MutexLock lock(&mutex_);
  if (other.inbox_count().HasRoom(side.limits)) return true;
  side.writable_wanted = true;
  return false;
}

void Link::RequestWritable(Which which) {
  Side& side = sides_[which];
  MutexLock lock(&mutex_);
  side.writable_due = true;
  PostPump(side);
}

absl::Status Link::Send(Which which, OutgoingMessage&& message) {
  OutgoingMessage owned = std::move(message);
  Side& side = sides_[which];
  Side& other = Other(side);
  absl::Status sealed = SealMessage(*owned, side.send_limits);
  if (!sealed.ok()) [[unlikely]]
    return sealed;
  const uint64_t bytes = owned->header.size;
  const uint64_t bound = QueueBound(side.limits, side.accepted, owned->header);

  MutexLock lock(&mutex_);
  if (!IsOpen(side, other)) [[unlikely]]
    return Closed(side);
  const Queued before = other.inbox_count();
  const Queued after = before.With(bytes, 1);
  if (before.messages != 0 && after.weight() > bound) [[unlikely]] {
    return side.accepted ? AnswersUnread(side.limits, bytes, before.weight()) : QueueFull(side);
  }
  other.inbox.Push(std::move(owned));
  other.SetInboxCount(after);
  if (side.accepted && after.weight() >= side.limits.queued_bytes_max) [[unlikely]] {
    side.paused = true;
  }
  if (!CanDrive(other)) return absl::OkStatus();  // whoever prevents it announces later
  if (WillDriveItself(side)) {
    ArmTimer(other);
  } else {
    Announce(other);
  }
  return absl::OkStatus();
}

bool Link::WillDriveItself(const Side& sender) {
  // Inside Await already, it comes back to Await when the callback returns.
  const Frame* await = FrameScope::Find(await_frames_, Other(sender));
  if (await != nullptr) return true;
  await = FrameScope::Find(await_frames_, sender);
  if (await != nullptr && await->drives_other) return true;
  return sender.awaits && !sender.background;
}

void Link::FindDriver(Side& side) {
  Side& other = Other(side);
  if (side.waking != 0 || other.waking_for_both != 0) return;
  if (WakeSleeper(side, false) || WakeSleeper(other, true)) return;
  if (side.background || (side.accepted && (!other.awaits || other.background))) {
    PostPump(side);
  } else {
    ArmTimer(side);
  }
}

bool Link::WakeSleeper(Side& awaited, bool to_drive_other) {
  Waiter* waiter = awaited.sleepers;
  if (waiter == nullptr) return false;
  do {
    if ((!to_drive_other || waiter->drives_other) && !waiter->completion.done()) {
      UnlinkSleeper(awaited, *waiter);
      ++awaited.waking;
      if (waiter->drives_other) ++awaited.waking_for_both;
      waiter->completion.OfferTurn();
      return true;
    }
    waiter = waiter->next;
  } while (waiter != awaited.sleepers);
  return false;
}

void Link::LinkSleeper(Side& side, Waiter& waiter) {
  waiter.listed = true;
  Waiter*& first = side.sleepers;
  if (first == nullptr) {
    first = waiter.previous = waiter.next = &waiter;
    return;
  }
  waiter.previous = first->previous;
  waiter.next = first;
  first->previous->next = &waiter;
  first->previous = &waiter;
}

void Link::UnlinkSleeper(Side& side, Waiter& waiter) {
  waiter.listed = false;
  if (waiter.next == &waiter) {
    side.sleepers = nullptr;
    return;
  }
  waiter.previous->next = waiter.next;
  waiter.next->previous = waiter.previous;
  if (side.sleepers == &waiter) side.sleepers = waiter.next;
}

void Link::PostPump(Side& side) {
  if (side.pump_posted || side.state.load(std::memory_order_relaxed) == State::kClosed) return;
  side.pump_posted = true;
  // Posting under the mutex keeps the loop alive meanwhile: it may be destroyed once the side is
  // closed, which takes the mutex. The captured pointer keeps the link.
  side.loop->Post(
      [self = std::shared_ptr<Side>(shared_from_this(), &side)] { self->link->Pump(*self); });
}

void Link::StartTimer(Side& side) {
  if (side.state.load(std::memory_order_relaxed) == State::kClosed) return;
  if (!side.timer.has_value()) {
    side.timer.emplace(
        side.loop, [weak = std::weak_ptr<Side>(std::shared_ptr<Side>(shared_from_this(), &side))] {
          if (const auto self = weak.lock()) self->link->Tick(*self);
        });
  }
  side.timer_armed = true;
  side.timer->Schedule(Deadline::After(kLazyPeriod));
}

void Link::Tick(Side& side) {
  MutexLock lock(&mutex_);
  side.timer_armed = false;
  const bool forgotten = CanDrive(side) && side.delivered == side.timer_delivered;
  if (forgotten) {
    Other(side).awaits = false;
    PumpLocked(side);
  }
  side.timer_delivered = side.delivered;
  if (std::exchange(side.timer_needed, false) || HasCallback(side)) {
    ArmTimer(side);
    side.timer_needed = false;
  }
}

OutgoingMessage Link::TakeFromInbox(Side& side) {
  OutgoingMessage message = side.inbox.Pop();
  ++side.delivered;
  const Queued before = side.inbox_count();
  const Queued left = {before.bytes - message->header.size, before.messages - 1};
  side.SetInboxCount(left);
  Side& sender = Other(side);
  if (sender.writable_wanted || sender.paused) [[unlikely]]
    MadeRoom(sender, left);
  return message;
}

void Link::MadeRoom(Side& sender, const Queued& left) {
  if (sender.writable_wanted && left.IsLow(sender.limits)) [[unlikely]] {
    sender.writable_wanted = false;
    sender.writable_due = true;
    PostPump(sender);
  }
  if (sender.paused && left.IsHalf(sender.limits)) [[unlikely]] {
    sender.paused = false;
    Announce(sender);
  }
}

void Link::RunOne(Side& side) {
  side.driven.store(true, std::memory_order_relaxed);
  Receiver& receiver = *side.receiver;
  if (side.writable_due) {
    side.writable_due = false;
    mutex_.Unlock();
    SideCallback callback(side);
    receiver.OnWritable();
  } else {
    OutgoingMessage message = TakeFromInbox(side);
    mutex_.Unlock();
    SideCallback callback(side);
    receiver.OnMessage(MakeIncoming(std::move(message)));
  }
  mutex_.Lock();
  side.driven.store(false, std::memory_order_relaxed);
  if (HasEnd(side)) PostPump(side);
}

void Link::Pump(Side& side) {
  MutexLock lock(&mutex_);
  side.pump_posted = false;
  PumpLocked(side);
}

void Link::PumpLocked(Side& side) {
  int callbacks = 0;
  while (callbacks < kCallbacksPerPump && DriveOne(side)) ++callbacks;
  if (side.driven.load(std::memory_order_relaxed)) return;  // that driver looks again
  if (HasEnd(side)) {
    End(side);
  } else if (HasCallback(side)) {
    PostPump(side);
  }
}

void Link::Close(Which which, absl::Status why) {
  Side& side = sides_[which];
  Side& other = Other(side);
  MutexLock lock(&mutex_);
  if (side.state.load(std::memory_order_relaxed) != State::kOpen) return;
  side.state.store(State::kClosing, std::memory_order_relaxed);
  side.why = std::move(why);
  other.paused = false;  // nobody takes its messages any more
  PostPump(side);
  PostPump(other);
}

void Link::End(Side& side) {
  Side& other = Other(side);
  if (side.state.load(std::memory_order_relaxed) == State::kOpen) {
    // The other side ended, and everything it sent before was delivered.
    if (!other.why.ok()) {
      side.why = absl::Status(other.why.code(), absl::StrCat("peer closed: ", other.why.message()));
      other.why.ForEachPayload([&side](absl::string_view type, const absl::Cord& payload) {
        side.why.SetPayload(type, payload);
      });
    }
  }
  side.state.store(State::kClosed, std::memory_order_relaxed);
  // What the other side will not take any more. If it is open still, it takes all of it.
  Queue unsent;
  if (other.state.load(std::memory_order_relaxed) != State::kOpen) {
    unsent.swap(other.inbox);
    other.SetInboxCount({});
  }
  side.timer.reset();
  std::shared_ptr<void> while_open = std::move(side.while_open);
  std::shared_ptr<Receiver> receiver = std::move(side.receiver);
  const absl::Status why = side.why;
  side.driven.store(true, std::memory_order_relaxed);
  mutex_.Unlock();
  if (receiver != nullptr) {
    SideCallback callback(side);
    while (!unsent.empty()) {
      const OutgoingMessage message = unsent.Pop();
      receiver->OnUnsent(message->header, LostBeforeSend());
    }
    receiver->OnClosed(why);
    receiver.reset();
  }
  while_open.reset();  // is its owner's code, which may lock
  mutex_.Lock();
  side.driven.store(false, std::memory_order_relaxed);
}

bool Link::Await(Which which, Completion& completion, Deadline deadline) {
  MI7_CHECK(!InCallback(which), "Await is not called inside a callback of the same connection");
  if (completion.done()) return true;
  CallbackScope::FlushAll();
  Side& side = sides_[which];
  Side& other = Other(side);
  Waiter waiter{
      .completion = completion, .deadline = deadline, .drives_other = deadline.infinite()};

  MutexLock lock(&mutex_);
  {
    FrameScope frame(side, waiter.drives_other);
    if (!waiter.drives_other) {
      if (CanDrive(other)) PostPump(other);  // may have been left for us to drive
    } else if (!other.inbox.empty()) {
      side.awaits = true;  // came before the loop did
    }
    while (!completion.done()) {
      const bool drove = DriveOne(side) || (waiter.drives_other && DriveOne(other));
      // Also after something was done: a peer that never stops must not keep us from looking.
      if (!completion.done() && deadline.passed()) break;
      if (!drove) Wait(side, waiter);
    }
  }
  Announce(side);
  Announce(other);
  return completion.done();
}

void Link::Wait(Side& side, Waiter& waiter) {
  int64_t budget_ns = 0;
  int64_t start_ns = 0;
  if (side.wait != WaitPolicy::kBlock) {
    start_ns = MonotonicNanos();
    budget_ns =
        side.wait == WaitPolicy::kSpin ? Deadline().at_ns() - start_ns : side.spin_budget.Begin();
    if (budget_ns != 0) {
      mutex_.Unlock();
      const bool found =
          Poll(side, waiter, std::min(start_ns + budget_ns, waiter.deadline.at_ns()));
      mutex_.Lock();
      const bool real = waiter.completion.done() || CanDrive(side) ||
                        (waiter.drives_other && CanDrive(Other(side)));
      if (found && real && side.wait == WaitPolicy::kAdaptive) side.spin_budget.End(budget_ns, 0);
      if (real || (side.wait == WaitPolicy::kSpin && !waiter.deadline.passed())) return;
    }
  }
  LinkSleeper(side, waiter);
  mutex_.Unlock();
  waiter.completion.Sleep(waiter.deadline);
  mutex_.Lock();
  if (waiter.listed) {
    UnlinkSleeper(side, waiter);
  } else {
    --side.waking;
    if (waiter.drives_other) --side.waking_for_both;
  }
  if (side.wait == WaitPolicy::kAdaptive) {
    side.spin_budget.End(budget_ns, MonotonicNanos() - start_ns);
  }
}

bool Link::Poll(const Side& side, const Waiter& waiter, int64_t until_ns) {
  const auto seems_drivable = [](const Side& of) {
    return of.inbox_bytes.load(std::memory_order_relaxed) != 0 &&
           !of.driven.load(std::memory_order_relaxed);
  };
  static const bool single_cpu = OnSingleCpu();
  const bool yields = single_cpu || side.wait != WaitPolicy::kSpin;
  for (uint32_t polls = 1;; ++polls) {
    if (waiter.completion.done() || seems_drivable(side) ||
        (waiter.drives_other && seems_drivable(Other(side)))) {
      return true;
    }
    // A spin without end lets others run now and then: with fewer free CPUs than spinning threads
    // it would otherwise wait for whole time slices of those that do not get one.
    if (yields || polls % 1024 == 0) ::sched_yield();
    if ((yields || polls % 64 == 0) && MonotonicNanos() >= until_ns) return false;
  }
}

void Link::SetBackground(Which which, bool wanted) {
  Side& side = sides_[which];
  MutexLock lock(&mutex_);
  side.background = wanted;
  if (!wanted) return;
  // What was left for an Await that will not come.
  if (CanDrive(side)) PostPump(side);
  if (CanDrive(Other(side))) PostPump(Other(side));
}

bool Link::InCallback(Which which) const {
  // Of either end: a thread inside a callback of the other one is the one that would have to serve
  // it.
  static_cast<void>(which);
  return CallbackScope::Of(&sides_[0]) != nullptr || CallbackScope::Of(&sides_[1]) != nullptr;
}

ConnectionInfo Link::info(Which which) const {
  const Limits& peer = sides_[1 - which].limits;
  ConnectionInfo info;
  info.transport = "inproc";
  info.peer = endpoint_;
  info.local = endpoint_;
  info.negotiated.message_bytes_max = peer.message_bytes_max;
  info.negotiated.calls_in_flight_max = peer.calls_in_flight_max;
  info.negotiated.features = kFeaturesOfAll;
  info.negotiated.stream_window_bytes = peer.stream_window_bytes;
  info.negotiated.peer_instance = sides_[1 - which].instance;
  return info;
}

}  // namespace mi7::transport::inproc
