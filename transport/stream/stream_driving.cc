// The driving half of StreamConnection: reading, dispatching, waiting, and who does it.

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/handshake.h"
#include "transport/stream/dispatch_scope.h"
#include "transport/stream/socket.h"
#include "transport/stream/stream_connection.h"
#include "transport/system_calls.h"

namespace mi7::transport {
namespace {

// Consecutive drives by threads after which the loop's watch is lent.
constexpr uint8_t kHotDrives = 8;
// A lent watch comes back after one to two ticks without a drive.
constexpr auto kLentTick = absl::Milliseconds(5);
// Of our loop's lateness so much counts as the peer's: what it sent was not read for so long.
constexpr int64_t kLateLook = 1'000'000'000;
// Reads that the loop makes for one connection before it looks at the others.
constexpr int kReadsPerTurn = 8;

// Limits::message_arrival_timeout; a year is as good as any longer time.
int64_t ArrivalNanos(const Limits& limits) {
  return absl::ToInt64Nanoseconds(
      std::min<absl::Duration>(limits.message_arrival_timeout, absl::Hours(24 * 365)));
}

}  // namespace

// --- Waiting

bool StreamConnection::Await(Completion& completion, Deadline deadline) {
  if (completion.done()) return true;
  MI7_CHECK(!InCallback(), "Await inside a callback of the same connection would wait for itself");
  // The loop that would end the wait did not follow into a forked child.
  if (forked()) return false;
  if (CallbackScope::innermost() != nullptr) [[unlikely]]
    CallbackScope::FlushAll();
  // Relaxed: what this thread has sent it sees.
  if (gathers_.load(std::memory_order_relaxed)) [[unlikely]]
    WriteGathered();
  if (CanDrive() && token_.TryTake()) {
    Drive(completion, deadline);
    ReleaseToken();
    if (completion.done()) return true;
    if (deadline.passed()) return false;
  }
  return AwaitTurns(completion, deadline);
}

bool StreamConnection::AwaitTurns(Completion& completion, Deadline deadline) {
  // Waits of this thread for replies that others read, on whatever connection.
  static thread_local SpinBudget budget;
  const WaitPolicy policy = context_->wait;
  for (;;) {
    const int64_t start_ns = policy == WaitPolicy::kAdaptive ? MonotonicNanos() : 0;
    const int64_t budget_ns = policy == WaitPolicy::kAdaptive ? budget.Begin() : 0;
    token_.List(completion);
    for (;;) {
      if (CanDrive() && token_.TryTake()) {  // W2 of driver.h
        token_.Unlist(completion);
        Drive(completion, deadline);
        ReleaseToken();
        if (completion.done()) return true;
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

void StreamConnection::Drive(Completion& completion, Deadline deadline) {
  if (watch_.watches_reads()) watch_.WatchReads(false);
  // What came together with the handshake is at hand already: no read would bring it.
  if (assembler_.buffered_bytes() != 0) Dispatch();
  const WaitPolicy policy = context_->wait;
  static thread_local const bool single_cpu = OnSingleCpu();
  static thread_local NeighbourGuess neighbour;
  while (!completion.done() && CanDrive()) {
    TellRoom();
    int64_t budget_ns = 0;
    int64_t start_ns = 0;
    if (policy == WaitPolicy::kAdaptive) neighbour.BeginWait();
    if (policy != WaitPolicy::kBlock) {
      start_ns = MonotonicNanos();
      budget_ns = policy == WaitPolicy::kSpin ? INT64_MAX : budget_.Begin();
    }
    Read read = Read::kNothing;
    for (uint32_t polls = 1; budget_ns != 0; ++polls) {
      read = ReadOnce(MSG_DONTWAIT);
      if (read != Read::kNothing || completion.done() || !CanDrive()) break;
      if (policy == WaitPolicy::kSpin) {
        if (polls % 32 == 0) {
          if (deadline.passed()) return;
          TellRoom();
          if (single_cpu || polls % 1024 == 0) ::sched_yield();
        }
        continue;
      }
      const int64_t now_ns = MonotonicNanos();
      if (now_ns >= deadline.at_ns()) return;
      if (now_ns - start_ns > budget_ns) break;
      if (single_cpu) {
        ::sched_yield();
      } else {
        neighbour.YieldOrPause(polls);
      }
    }
    if (read == Read::kNothing && !completion.done() && CanDrive()) read = ReadBlocking(deadline);
    if (policy == WaitPolicy::kAdaptive) budget_.End(budget_ns, MonotonicNanos() - start_ns);
    // Also after a read: a peer that never stops sending must not keep us from looking.
    if (deadline.passed()) return;
  }
}

// --- Reading

StreamConnection::Read StreamConnection::ReadBlocking(Deadline deadline) {
  // Bounded by the socket's read timeout, so that what another thread wants of the driver
  // (OnWritable, a completion by somebody else) waits for 50 ms at most.
  if (deadline.infinite()) return ReadOnce(0);
  const int64_t left_ns = std::min<int64_t>(deadline.remaining_ns(), 50'000'000);
  const timespec timeout{0, static_cast<long>(left_ns)};
  pollfd descriptor{socket_.get(), POLLIN, 0};
  if (::ppoll(&descriptor, 1, &timeout, nullptr) <= 0) return Read::kNothing;
  return ReadOnce(MSG_DONTWAIT);
}

StreamConnection::Read StreamConnection::ReadOnce(int flags) {
  const std::span<std::byte> space = assembler_.Space();
  const ssize_t got = sys::Recv(socket_.get(), space.data(), space.size(), flags);
  if (got > 0) [[likely]] {
    assembler_.Filled(static_cast<size_t>(got));
    peer_lives_.store(true, std::memory_order_relaxed);
    Dispatch();
    return static_cast<size_t>(got) == space.size() ? Read::kFull : Read::kSome;
  }
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
    return Read::kNothing;
  }
  EndOfStream(got == 0 ? 0 : errno);
  return Read::kEnded;
}

void StreamConnection::EndOfStream(int error) {
  const int write_error = write_error_.load(std::memory_order_seq_cst);
  if (error == 0 && write_error == 0 && accepted_ && assembler_.AtBoundary() && HasUnsent()) {
    // It sends no more, and may take its answers still.
    paused_.store(true, std::memory_order_seq_cst);
    watch_.WatchReads(false);
    return CloseWhenSent();
  }
  if (error == 0) error = write_error;
  // The peer has closed. On a Unix socket a write tells before the end of the stream can be read.
  if (error == EPIPE) error = 0;
  if (error != 0) {
    BeginClose(SocketError(absl::StrCat("connection to ", peer()), error),
               /*tell=*/false);
  } else if (!assembler_.AtBoundary()) {
    BeginClose(absl::UnavailableError(absl::StrCat("connection to ", peer(),
                                                   " ended in the middle of a message, ", "after ",
                                                   assembler_.buffered_bytes(), " bytes of it")),
               /*tell=*/false);
  } else {
    BeginClose(absl::OkStatus(), /*tell=*/false);
  }
}

void StreamConnection::Dispatch() {
  const uint64_t queue_max = context_->limits.queued_bytes_max;
  DispatchScope scope(this);
  FrameAssembler::Received received;
  while (CanDrive()) {
    const bool skipped = assembler_.skips();
    const FrameAssembler::Result result = assembler_.Next(received);
    const bool more = result == FrameAssembler::Result::kNeedMore;
    // What was half there is complete, or dropped to its end. Before somebody's callback takes its
    // time.
    if (arrival_ != nullptr && (!more || (skipped && !assembler_.skips()))) [[unlikely]]
      arrival_->due_ns.store(Arrival::kNoMessage, std::memory_order_relaxed);
    if (more) break;
    if (result == FrameAssembler::Result::kMessage) [[likely]] {
      Deliver(received);
    } else if (result == FrameAssembler::Result::kRejected) {
      receiver_->OnRejected(received.rejected, received.status);
    } else {
      BeginClose(absl::Status(received.status.code(), absl::StrCat("stream from ", peer(), ": ",
                                                                   received.status.message())),
                 /*tell=*/true);
    }
    if (writer_.Full(queue_max) && PauseWhenFull()) [[unlikely]]
      break;
  }
  Uncork(scope);
  // Not while it is us who read nothing.
  if (!assembler_.AtBoundary() && CanDrive()) [[unlikely]]
    NoteArrival();
}

void StreamConnection::NoteArrival() {
  const Limits& limits = context_->limits;
  if (limits.message_arrival_timeout == absl::InfiniteDuration()) return;
  const bool made = arrival_ == nullptr;
  if (made) {
    arrival_ = std::make_unique<Arrival>(loop_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->CheckArrival();
    });
  }
  const int64_t due_ns = arrival_->due_ns.load(std::memory_order_relaxed);
  const bool begins = due_ns == Arrival::kNoMessage;
  if (begins) arrival_->began_ns = MonotonicNanos();
  // Known once the header is there; 32 bits of it.
  const uint64_t size_ns = uint64_t{assembler_.message_bytes()} * 1'000'000'000 /
                           limits.message_arrival_bytes_per_second_min;
  const int64_t until_ns =
      arrival_->began_ns + ArrivalNanos(limits) + static_cast<int64_t>(size_ns);
  if (begins || until_ns > due_ns) {
    arrival_->due_ns.store(until_ns, std::memory_order_relaxed);
  }
  if (made) LookAtArrival(until_ns);
}

void StreamConnection::LookAtArrival(int64_t due_ns) {
  Arrival& arrival = *arrival_;
  arrival.set_ns = MonotonicNanos();
  arrival.set_system_ns = SystemNanos();
  // The next message has at least so much time, if this one is complete before.
  const int64_t step_ns = std::min(arrival.step_ns, ArrivalNanos(context_->limits));
  arrival.look_ns = std::min(due_ns, arrival.set_ns + step_ns);
  arrival.step_ns = 2 * step_ns;
  arrival.timer.Schedule(Deadline::AtNanos(arrival.look_ns));
}

bool StreamConnection::BytesWait() const {
  int bytes = 0;
  return ::ioctl(socket_.get(), FIONREAD, &bytes) == 0 && bytes > 0;
}

void StreamConnection::CheckArrival() {
  if (closing() || arrival_ == nullptr) return;
  // A loop that comes late has read nothing in that time.
  const int64_t late_ns =
      (SystemNanos() - arrival_->set_system_ns) - (arrival_->look_ns - arrival_->set_ns);
  int64_t due_ns = arrival_->due_ns.load(std::memory_order_relaxed);
  if (due_ns == Arrival::kNoMessage) {
    // Whoever drives may be about to use it; then a later look ends it.
    if (token_.TryTake()) {
      const bool done = arrival_->due_ns.load(std::memory_order_relaxed) == Arrival::kNoMessage;
      if (done) arrival_.reset();
      ReleaseToken();
      if (done) return;  // and the next driver may have made another
    }
  } else if (late_ns >= kLateLook) {
    // Unless it is complete meanwhile, or its size was learned.
    if (arrival_->due_ns.compare_exchange_strong(due_ns, due_ns + late_ns,
                                                 std::memory_order_relaxed)) {
      due_ns += late_ns;
    }
  } else if (const int64_t now_ns = MonotonicNanos(); due_ns <= now_ns && BytesWait()) {
    // It is us who read late: this loop, or a thread that drives and is inside a callback.
    if (arrival_->due_ns.compare_exchange_strong(due_ns, now_ns + kLateLook,
                                                 std::memory_order_relaxed)) {
      due_ns = now_ns + kLateLook;
    }
  } else if (due_ns <= now_ns) {
    const Limits& limits = context_->limits;
    BeginClose(absl::ResourceExhaustedError(absl::StrCat(
                   peer(), " has begun a message and not completed it within ",
                   "limits.message_arrival_timeout, ",
                   absl::FormatDuration(limits.message_arrival_timeout), ", and the time of ",
                   "its bytes at limits.message_arrival_bytes_per_second_min, ",
                   limits.message_arrival_bytes_per_second_min)),
               /*tell=*/true);
    return;
  }
  LookAtArrival(due_ns);
}

void StreamConnection::Deliver(FrameAssembler::Received& received) {
  switch (received.message.header().type) {
    case FrameType::kClose:
      BeginClose(ReadClose(received.message), /*tell=*/false);
      break;
    case FrameType::kHello:
      BeginClose(absl::InvalidArgumentError(
                     absl::StrCat("stream from ", peer(), ": a second hello message")),
                 /*tell=*/true);
      break;
    default:
      receiver_->OnMessage(std::move(received.message));
  }
  received.message.reset();
}

bool StreamConnection::PauseWhenFull() {
  if (!accepted_ || !writer_.Full(context_->limits.queued_bytes_max)) return false;
  paused_.store(true, std::memory_order_seq_cst);
  // Whoever drains the queue sees that we pause, or we see that it has drained.
  if (writer_.queued().IsHalf(context_->limits)) {
    paused_.store(false, std::memory_order_seq_cst);
    return false;
  }
  watch_.WatchReads(false);
  return true;
}

void StreamConnection::TellRoom() {
  if (!writer_.TakeRoom(context_->limits)) return;
  DispatchScope scope(this);
  receiver_->OnWritable();
  Uncork(scope);
}

// --- Who drives

void StreamConnection::ReleaseToken() {
  assembler_.ReleaseIdle();
  drives_.fetch_add(1, std::memory_order_relaxed);
  if (token_.Release()) CallLoop();  // R1
  if (!watch_.watches_reads() &&
      (!lent_.load(std::memory_order_seq_cst) || wants_background())) {  // R2
    LendWatch();
  }
}

void StreamConnection::LendWatch() {
  if (!CanDrive()) return;
  if (wants_background() || loop_->InLoopThread() ||
      hot_drives_.fetch_add(1, std::memory_order_relaxed) < kHotDrives) {
    watch_.WatchReads(true);
    return;
  }
  if (lent_.exchange(true, std::memory_order_seq_cst)) return;
  loop_->Post([self = shared_from_this()] { self->CheckLent(); });
}

void StreamConnection::CheckLent() {
  if (closing()) return;
  const uint32_t drives = drives_.load(std::memory_order_relaxed);
  if (lent_look_ == nullptr) {
    lent_look_ = std::make_unique<Look>(loop_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->CheckLent();
    });
  } else if (drives == lent_look_->seen) {
    // Nobody has stopped driving since the last tick: nobody drives, or one drive is long, which
    // restores the watch itself when it ends.
    hot_drives_.store(0, std::memory_order_relaxed);
    lent_.store(false, std::memory_order_seq_cst);              // T1
    if (!token_.held() && CanDrive()) watch_.WatchReads(true);  // T2
    lent_look_.reset();
    return;
  }
  lent_look_->seen = drives;
  lent_look_->timer.Schedule(Deadline::After(kLentTick));
}

void StreamConnection::SetBackground(bool wanted) {
  if (forked()) return;
  background_.store(wanted, std::memory_order_seq_cst);  // B1
  if (wanted && !watch_.watches_reads() && !token_.held() && CanDrive()) {
    watch_.WatchReads(true);  // B2
  }
}

void StreamConnection::CallLoop() {
  loop_->Post([self = shared_from_this()] { self->LoopTurn(); });
}

void StreamConnection::LoopTurn() {
  if (!token_.TryTakeForLoop()) return;
  if (closing()) {
    Finalize();
    return;
  }
  MI7_CHECK(receiver_ != nullptr, "a connection is started before it is used");
  TellRoom();
  const bool resume = paused_.load(std::memory_order_seq_cst) &&
                      !closes_when_sent_.load(std::memory_order_seq_cst) &&
                      writer_.queued().IsHalf(context_->limits);
  if (resume) paused_.store(false, std::memory_order_seq_cst);
  if (CanDrive() && assembler_.buffered_bytes() != 0) Dispatch();
  const int write_error = write_error_.load(std::memory_order_seq_cst);
  if (write_error != 0) {
    bool more = true;
    for (int reads = 0; reads < kReadsPerTurn && more && CanDrive(); ++reads) {
      const Read read = ReadOnce(MSG_DONTWAIT);
      more = read == Read::kSome || read == Read::kFull;
    }
    if (more && CanDrive()) {
      CallLoop();  // on a Unix socket a peer that takes nothing more can go on sending
    } else if (!closing()) {
      EndOfStream(write_error);  // neither an end nor anything more to read
    }
  }
  ReleaseToken();
}

void StreamConnection::OnReady(uint32_t events) {
  // Of a Unix socket that its peer has shut down both ways nothing else tells while the peer's
  // buffer is full: the write fails then, which is the end, whether we read or not.
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) {
    const Writer::Result resumed = writer_.Resume(socket_.get());
    if (resumed.wrote) peer_lives_.store(true, std::memory_order_relaxed);
    AfterWrite(resumed);
    watch_.WatchWrites(writer_.blocked_flag());
  }
  if ((events & ~uint32_t{EPOLLOUT}) == 0) return;
  if (!token_.TryTake()) {
    watch_.WatchReads(false);       // L1
    if (!token_.TryTake()) return;  // L2
  }
  for (int reads = 0; reads < kReadsPerTurn && CanDrive(); ++reads) {
    // After a read that left room there is nothing more, and no need to ask.
    if (ReadOnce(MSG_DONTWAIT) != Read::kFull) break;
  }
  if (wants_background()) loop_->SetSpinSource(this);
  ReleaseToken();
}

bool StreamConnection::Poll() {
  if (!CanDrive() || !wants_background() || !token_.TryTake()) return false;
  const Read read = ReadOnce(MSG_DONTWAIT);
  ReleaseToken();
  return read != Read::kNothing;
}

}  // namespace mi7::transport
