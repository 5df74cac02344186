// The driving half of ShmConnection: reading, dispatching, waiting, and who does it.

#include <sched.h>
#include <sys/epoll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/handshake.h"
#include "transport/shm/connection.h"
#include "transport/shm/scope.h"

namespace mi7::transport::shm {
namespace {

// Consecutive drives by threads after which nothing is declared when they stop.
constexpr uint8_t kHotDrives = 8;
// A lent connection is looked after again one to two ticks after the last drive.
constexpr auto kLentTick = absl::Milliseconds(5);
// Records that are dispatched before the driver looks at its own affairs again.
constexpr int kRecordsPerTurn = 64;
// Cells after which the peer is told what was read of its ring. So it never waits for less than the
// rest of the ring, which is ours to read first.
constexpr uint32_t kPublishEvery = kRingCells / 4;
// Turns that a thread, not the loop's, whose own wait is over still works for others before it
// calls the loop.
constexpr int kCourtesyTurns = 4;

// How the calling thread polls, on whatever connection. A callback that waits has it while the wait
// that dispatches the callback does not poll, and goes on from what that learned.
struct Polling {
  const bool single_cpu = OnSingleCpu();
  NeighbourGuess neighbour;

  static Polling& OfThread() {
    static thread_local Polling polling;
    return polling;
  }
};

// Ends a wait of the calling thread, which holds no token for it any more. True, as the wait was
// for something that has come.
bool EndWait() {
  Polling& polling = Polling::OfThread();
  if (polling.single_cpu) polling.neighbour.BetweenWaits();
  return true;
}

}  // namespace

// --- Waiting

bool ShmConnection::Await(Completion& completion, Deadline deadline) {
  if (completion.done()) return true;
  MI7_CHECK(!InCallback(), "Await inside a callback of the same connection would wait for itself");
  // The loop that would end the wait did not follow into a forked child.
  if (link_->forked()) return false;
  if (CallbackScope::innermost() != nullptr) [[unlikely]]
    CallbackScope::FlushAll();
  if (loop_->InLoopThread() && keeps_token_) [[unlikely]] {
    // A callback of another connection waits here, and the loop with it.
    keeps_token_ = false;
    if (token_.Release()) CallLoop();
  }
  if (CanDrive() && token_.TryTake()) {
    Drive(completion, deadline);
    ReleaseToken();
    if (completion.done()) return EndWait();
    if (deadline.passed()) return false;
  }
  return AwaitTurns(completion, deadline);
}

bool ShmConnection::AwaitTurns(Completion& completion, Deadline deadline) {
  // Waits of this thread for replies that others read, on whatever connection.
  static thread_local SpinBudget budget;
  const WaitPolicy policy = options_->wait;
  for (;;) {
    const int64_t start_ns = policy == WaitPolicy::kAdaptive ? MonotonicNanos() : 0;
    const int64_t budget_ns = policy == WaitPolicy::kAdaptive ? budget.Begin() : 0;
    token_.List(completion);
    for (;;) {
      if (CanDrive() && token_.TryTake()) {  // W2 of driver.h
        token_.Unlist(completion);
        Drive(completion, deadline);
        ReleaseToken();
        if (completion.done()) return EndWait();
        if (deadline.passed()) return false;
        break;  // list again
      }
      const bool spin = policy == WaitPolicy::kSpin ||
                        (budget_ns != 0 && MonotonicNanos() - start_ns < budget_ns);
      if (spin && !completion.done() && !deadline.passed()) {
        ::sched_yield();
        continue;
      }
      const Completion::Woken woken = completion.Sleep(deadline);
      // Of a turn that was offered in vain we are told by the release of whoever took the token.
      if (woken == Completion::Woken::kTurn) continue;
      token_.Unlist(completion);
      if (policy == WaitPolicy::kAdaptive) budget.End(budget_ns, MonotonicNanos() - start_ns);
      return woken == Completion::Woken::kDone || completion.done();
    }
  }
}

void ShmConnection::Drive(Completion& completion, Deadline deadline) {
  Polling& polling = Polling::OfThread();
  const bool single_cpu = polling.single_cpu;
  NeighbourGuess& neighbour = polling.neighbour;
  uint32_t pauses = neighbour.PausesWhileTheyHelp(single_cpu);
  link_->doorbell().Awake();
  const WaitPolicy policy = options_->wait;
  uint32_t quiet = 0;
  int64_t start_ns = 0;
  int64_t budget_ns = 0;
  while (!completion.done() && CanDrive()) {
    if (Work()) {
      if (start_ns != 0 && policy == WaitPolicy::kAdaptive) budget_.End(budget_ns, 0);
      if (quiet != 0) {
        neighbour.PausesEnded(pauses, quiet);
        if (completion.done()) return;
        pauses = neighbour.PausesWhileTheyHelp(single_cpu);
      }
      quiet = 0;
      start_ns = 0;
      // Also after a read: a peer that never stops sending must not keep us from looking.
      if (deadline.passed()) return;
      continue;
    }
    if (policy != WaitPolicy::kBlock) {
      if (++quiet <= pauses) {
        CpuPause();
        continue;
      }
      const int64_t now_ns = MonotonicNanos();
      if (now_ns >= deadline.at_ns()) return neighbour.PausesEnded(pauses, quiet);
      if (start_ns == 0) {
        start_ns = now_ns;
        budget_ns = policy == WaitPolicy::kSpin ? INT64_MAX : budget_.Begin();
      }
      if (now_ns - start_ns < budget_ns) {
        // A wait that takes so long leaves time for what the next message needs.
        if (pool_->ClearAhead()) continue;
        if (single_cpu || policy == WaitPolicy::kAdaptive || quiet % 1024 == 0) {
          neighbour.YieldOrPause(quiet);
        } else {
          CpuPause();
        }
        continue;
      }
    }
    if (quiet != 0) {
      neighbour.PausesEnded(pauses, quiet);
      pauses = neighbour.PausesWhileTheyHelp(single_cpu);
    }
    SleepInFutex(completion, deadline);
    if (policy == WaitPolicy::kAdaptive) budget_.End(budget_ns, MonotonicNanos() - start_ns);
    start_ns = 0;
    quiet = 0;
    if (deadline.passed()) return;
  }
}

bool ShmConnection::DeclareSleep(uint32_t mode) {
  PublishConsumed();
  const bool wants_room = queue_waits() || room_wanted_.load(std::memory_order_seq_cst);
  link_->doorbell().Declare(wants_room ? mode | kWantsRoom : mode);
  // What was written while we were not looking, and what could be written now.
  if (queue_waits() && FlushQueue()) WakePeer();
  if ((CanDrive() && reader_.Ready()) || HasErrand() || (queue_waits() && !wants_room)) {
    link_->doorbell().Awake();
    return false;
  }
  return true;
}

void ShmConnection::SleepInFutex(Completion& completion, Deadline deadline) {
  futex_sleeper_.store(true, std::memory_order_seq_cst);
  const uint32_t kick_seen = kick_.load(std::memory_order_seq_cst);
  if (DeclareSleep(kFutex) && !closing() && completion.AnnounceSleep()) {
    link_->doorbell().SleepInFutex(kick_, kick_seen, completion.word(), Completion::kAsleep,
                                   deadline);
    completion.EndSleep();
  }
  futex_sleeper_.store(false, std::memory_order_relaxed);
  link_->doorbell().Awake();
}

void ShmConnection::KickDriver() {
  // Who sleeps has read kick_ after it raised futex_sleeper_: it sees the change before it sleeps,
  // or we see that it may be asleep.
  kick_.fetch_add(1, std::memory_order_seq_cst);
  if (futex_sleeper_.load(std::memory_order_seq_cst)) WakeInProcess(kick_);
}

// --- Reading

bool ShmConnection::Work() {
  bool worked = false;
  if (queue_waits()) [[unlikely]] {
    if (FlushQueue()) {
      WakePeer();
      worked = true;
    }
  }
  if (HasErrand()) [[unlikely]]
    worked |= DoErrands();
  if (CanDrive() && ReadRing(kRecordsPerTurn)) return true;
  return worked;
}

bool ShmConnection::DoErrands() {
  bool worked = false;
  if (refused_any_.load(std::memory_order_seq_cst)) {
    TellRefused();
    worked = true;
  }
  if (room_wanted_.load(std::memory_order_seq_cst) && HasRoomToTell() &&
      room_wanted_.exchange(false, std::memory_order_seq_cst)) {
    Scope scope(this);
    receiver_->OnWritable();
    worked = true;
  }
  if (paused_.load(std::memory_order_seq_cst) && QueueLow()) {
    paused_.store(false, std::memory_order_seq_cst);
    worked = true;
  }
  worked |= CloseIfSent();
  if (peer_gone_.load(std::memory_order_seq_cst) && !closing()) {
    // What it sent before is still there: not more than the ring holds, unless it is not gone.
    for (uint32_t i = 0; i < kRingCells && CanDrive() && ReadRing(1); ++i) {
    }
    BeginClose(absl::OkStatus(), /*tell=*/false);
    worked = true;
  }
  return worked;
}

void ShmConnection::PublishConsumed() {
  if (reader_.unpublished() == 0) return;
  reader_.Publish();
  WakePeer(/*only_for_room=*/true);
}

bool ShmConnection::ReadRing(int records) {
  if (!reader_.Ready()) return false;
  Scope scope(this);
  Record record;
  IncomingMessage message;
  bool burst = false;
  for (;;) {
    if (!reader_.Read(record)) [[unlikely]] {
      Reject(absl::InvalidArgumentError("a record that is larger than a record can be"));
      break;
    }
    if (reader_.unpublished() >= kPublishEvery) {
      reader_.Publish();
      scope.MadeRoom();
    }
    bool broken = false;
    const absl::Status parsed = link_->Parse(record, options_->limits, broken, message);
    if (parsed.ok()) [[likely]] {
      Deliver(std::move(message));
      message.reset();
    } else if (broken) {
      Reject(parsed);
    } else {
      receiver_->OnRejected(record.header, parsed);
    }
    if (QueueFullNow() && PauseWhenFull()) [[unlikely]]
      break;
    if (--records == 0 || !CanDrive() || !reader_.Ready()) break;
    if (!std::exchange(burst, true) && !bursts_.load(std::memory_order_relaxed)) {
      bursts_.store(true, std::memory_order_relaxed);
    }
  }
  // Written only when it changes: its line is read by those who send.
  if (!burst && bursts_.load(std::memory_order_relaxed)) {
    bursts_.store(false, std::memory_order_relaxed);
  }
  return true;
}

void ShmConnection::Reject(const absl::Status& why) {
  BeginClose(absl::Status(why.code(), absl::StrCat("stream from ", peer_, ": ", why.message())),
             /*tell=*/true);
}

void ShmConnection::Deliver(IncomingMessage&& message) {
  switch (message.header().type) {
    case FrameType::kClose:
      BeginClose(ReadClose(message), /*tell=*/false);
      break;
    case FrameType::kHello:
      Reject(absl::InvalidArgumentError("a second hello message"));
      break;
    default:
      receiver_->OnMessage(std::move(message));
  }
}

bool ShmConnection::PauseWhenFull() {
  if (!accepted_ || !QueueFullNow()) return false;
  paused_.store(true, std::memory_order_seq_cst);
  // Whoever drains the queue sees that we pause, or we see that it has drained.
  if (QueueLow()) {
    paused_.store(false, std::memory_order_seq_cst);
    return false;
  }
  return true;
}

// --- Who drives

bool ShmConnection::Lend() {
  if (wants_background() || loop_->InLoopThread()) return false;
  // Relaxed: a count, written under the token and by CheckLent.
  if (hot_drives_.load(std::memory_order_relaxed) < kHotDrives) {
    hot_drives_.fetch_add(1, std::memory_order_relaxed);
    return false;
  }
  // While something waits for room the peer must be told that we want it.
  if (queue_waits()) return false;
  if (!lent_.exchange(true, std::memory_order_seq_cst)) {
    loop_->Post([self = shared_from_this()] { self->CheckLent(); });
  }
  return true;
}

void ShmConnection::ReleaseToken() {
  drives_.store(drives_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  bool call_loop = false;
  if (!closing() && !polled_.load(std::memory_order_seq_cst)) {
    // Not left to the loop: it may be long before it gets the token.
    if (socket_unread_.load(std::memory_order_seq_cst) &&
        socket_unread_.exchange(false, std::memory_order_seq_cst)) [[unlikely]] {
      ReadSocket();
    }
    if (!(lent_.load(std::memory_order_seq_cst) && !wants_background()) && !Lend()) {
      // A loop has others to look at, and comes back.
      int turns = loop_->InLoopThread() ? kCourtesyTurns : 0;
      while (!closing() && !DeclareSleep(kSocket)) {
        if (++turns > kCourtesyTurns) {
          call_loop = true;
          break;
        }
        Work();
      }
    }
  }
  const bool loop_wants_it = token_.Release();
  if (call_loop || (loop_wants_it && LoopHasWork())) CallLoop();
}

bool ShmConnection::LoopHasWork() const {
  return !lent_.load(std::memory_order_seq_cst) || wants_background() || closing() ||
         queue_waits() || HasErrand() || socket_unread_.load(std::memory_order_seq_cst);
}

void ShmConnection::Settle() {
  if (!closing() && wants_background() && CanDrive() &&
      loop_->wait_policy() != WaitPolicy::kBlock) {
    polled_.store(true, std::memory_order_seq_cst);
    link_->doorbell().Awake();
    loop_->KeepPolling(this);
    // Threads wait on a connection that was made from here, and shall not wait for what else the
    // loop does meanwhile.
    keeps_token_ = accepted_ && !token_.wanted();
    if (keeps_token_) return;
  }
  keeps_token_ = false;
  ReleaseToken();
}

void ShmConnection::CheckLent() {
  if (closing()) return;
  const uint32_t drives = drives_.load(std::memory_order_relaxed);
  if (lent_timer_ == nullptr) {
    lent_timer_ = std::make_unique<EventLoop::Timer>(loop_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->CheckLent();
    });
  } else if (drives == lent_seen_) {
    // Nobody has stopped driving since the last tick: nobody drives, or one drive is long, whose
    // end calls the loop.
    lent_timer_.reset();
    hot_drives_.store(0, std::memory_order_relaxed);
    lent_.store(false, std::memory_order_seq_cst);
    LoopTurn();
    return;
  }
  lent_seen_ = drives;
  lent_timer_->Schedule(Deadline::After(kLentTick));
}

void ShmConnection::SetBackground(bool wanted) {
  if (link_->forked()) return;
  background_.store(wanted, std::memory_order_seq_cst);
  if (!wanted || polled_.load(std::memory_order_seq_cst)) return;
  const Use use(users_);  // the loop is there until Finalize
  if (!closing()) CallLoop();
}

void ShmConnection::RequestWritable() {
  if (link_->forked()) return;
  room_wanted_.store(true, std::memory_order_seq_cst);
  const Use use(users_);  // the loop is there until Finalize
  if (closing()) return;
  KickDriver();
  CallLoop();
}

void ShmConnection::CallLoop() {
  loop_->Post([self = shared_from_this()] { self->LoopTurn(); });
}

void ShmConnection::LoopTurn() {
  if (!TakeTokenForLoop()) return;
  if (closing()) {
    if (Linger()) {
      keeps_token_ = false;
      static_cast<void>(token_.Release());
    } else {
      Finalize();
    }
    return;
  }
  if (receiver_ == nullptr) {
    // Not started yet: Start calls again.
    static_cast<void>(token_.Release());
    return;
  }
  link_->doorbell().Awake();
  // First what is in the ring: a byte only says that there is something, and to read it takes as
  // long as an answer does.
  Work();
  if (socket_unread_.exchange(false, std::memory_order_seq_cst)) {
    ReadSocket();
    Work();
  }
  Settle();
}

void ShmConnection::ReadSocket() {
  absl::Status broken;
  const Link::SocketState state = link_->ReadSocket(broken);
  if (state == Link::SocketState::kEnd) {
    peer_gone_.store(true, std::memory_order_seq_cst);
  } else if (state == Link::SocketState::kMore) {
    socket_unread_.store(true, std::memory_order_seq_cst);
    CallLoop();
  }
  if (!broken.ok()) Reject(broken);
}

void ShmConnection::OnReady(uint32_t events) {
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
    peer_gone_.store(true, std::memory_order_seq_cst);
  }
  socket_unread_.store(true, std::memory_order_seq_cst);
  if (peer_gone_.load(std::memory_order_relaxed)) KickDriver();
  LoopTurn();
}

bool ShmConnection::Poll() {
  if (keeps_token_ && token_.wanted()) [[unlikely]] {
    keeps_token_ = false;  // until the connection has been at rest
    if (token_.Release()) CallLoop();
  }
  // A guess; what it misses is there at the next poll, or when the connection is put to rest.
  if (!reader_.Ready(std::memory_order_relaxed) && !queue_waits() && !HasErrand()) {
    if (++quiet_polls_ > kPausesBeforeYield) pool_->ClearAhead();
    return false;
  }
  quiet_polls_ = 0;
  if (!CanDrive() && !HasErrand() && !queue_waits()) return false;
  if (keeps_token_) [[likely]]
    return Work();
  if (!token_.TryTake()) return false;
  const bool worked = Work();
  if (token_.Release()) CallLoop();
  return worked;
}

bool ShmConnection::Rest() {
  polled_.store(false, std::memory_order_seq_cst);
  // Whoever has the token declares, or its release calls the loop.
  if (!TakeTokenForLoop()) return true;
  const bool at_rest = closing() || DeclareSleep(kSocket);
  if (!at_rest) polled_.store(true, std::memory_order_seq_cst);
  if (!at_rest && keeps_token_) return false;
  keeps_token_ = false;
  if (token_.Release()) CallLoop();
  return at_rest;
}

}  // namespace mi7::transport::shm
