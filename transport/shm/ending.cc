// The end of a ShmConnection, and what its timers watch: peers that do not read, memory that is
// idle.

#include <sys/socket.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "transport/handshake.h"
#include "transport/shm/connection.h"
#include "transport/shm/scope.h"

namespace mi7::transport::shm {
namespace {

// How long a connection sends nothing before the pages of its free slots go back to the system.
constexpr auto kTrimAfter = absl::Seconds(1);
// While slots are in use then, whose pages go back when they come free, the next look comes after
// twice as long as the last one, at most after this.
constexpr auto kTrimAfterMax = absl::Seconds(64);
// How long a closing connection waits for room for what was queued: so many ticks without progress.
constexpr auto kLingerTick = absl::Milliseconds(50);
constexpr uint32_t kLingerTicks = 4;
// And however slowly it goes on.
constexpr auto kLingerMax = absl::Seconds(5);

}  // namespace

void ShmConnection::CheckStall() {
  // S1 and S2: a sender that queues something and finds the flag set after S1 relies on the look at
  // S2, one that finds it cleared posts a new CheckStall.
  if (closing() || !queue_waits()) {
    stall_timer_.reset();
    stall_watched_.store(false, std::memory_order_seq_cst);  // S1
    if (closing() || !queue_waits()) return;                 // S2
    if (stall_watched_.exchange(true, std::memory_order_seq_cst)) return;
  }
  const Limits& limits = options_->limits;
  const uint32_t writes = writes_.load(std::memory_order_relaxed);
  if (stall_timer_ == nullptr) {
    stall_timer_ = std::make_unique<EventLoop::Timer>(loop_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->CheckStall();
    });
  } else if (writes == stall_seen_) {
    bool ring_full;
    {
      BiasedLock lock(&send_mutex_);
      // With room in the ring it is slots that are short: messages that the peer still uses.
      ring_full = !writer_.HasRoom(kRecordWordsMax);
    }
    if (ring_full) {
      BeginClose(absl::UnavailableError(
                     absl::StrCat(peer_, " has not read for limits.write_stall_timeout, ",
                                  absl::FormatDuration(limits.write_stall_timeout), ", while ",
                                  queue_count().bytes, " bytes wait to be sent")),
                 /*tell=*/false);
      return;
    }
  }
  stall_seen_ = writes;
  stall_timer_->Schedule(Deadline::After(limits.write_stall_timeout));
}

void ShmConnection::TrimLater() {
  if (link_->forked()) return;
  const Use use(users_);  // the loop is there until Finalize
  if (closing()) return;
  // Empty in the destructor, which waits for the pool's lock.
  auto self = weak_from_this().lock();
  if (self == nullptr) return;
  loop_->Post([self = std::move(self)] { self->ScheduleTrim(kTrimAfter); });
}

void ShmConnection::ScheduleTrim(absl::Duration after) {
  if (closing()) return;
  if (trim_timer_ == nullptr) {
    trim_timer_ = std::make_unique<EventLoop::Timer>(loop_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->CheckTrim();
    });
  }
  trim_seen_ = writes_.load(std::memory_order_relaxed);
  trim_after_ = after;
  trim_timer_->Schedule(Deadline::After(after));
}

void ShmConnection::CheckTrim() {
  if (closing()) return;
  if (writes_.load(std::memory_order_relaxed) != trim_seen_) {
    ScheduleTrim(kTrimAfter);
  } else if (pool_->Trim(0)) {
    ScheduleTrim(std::min<absl::Duration>(2 * trim_after_, kTrimAfterMax));
  } else {
    trim_timer_.reset();
  }
}

void ShmConnection::Close(absl::Status why) {
  if (link_->forked()) return;  // it is the parent's
  const bool tell = !why.ok();
  BeginClose(std::move(why), tell);
}

void ShmConnection::CloseWhenSent() {
  if (link_->forked()) return;
  closes_when_sent_.store(true, std::memory_order_seq_cst);
  if (CloseIfSent()) return;
  // Whoever drives, or the loop, does it when it has written what waits.
  const Use use(users_);  // the loop is there until Finalize
  if (closing()) return;
  KickDriver();
  CallLoop();
}

bool ShmConnection::CloseIfSent() {
  if (!IsSentAndToBeClosed() || closing()) return false;
  BeginClose(absl::OkStatus(), /*tell=*/false);
  return true;
}

void ShmConnection::BeginClose(absl::Status why, bool tell) {
  const Use use(users_);
  OutgoingMessage last;
  if (tell) last = MakeClose(why);
  {
    MutexLock lock(&close_mutex_);
    if (closing()) return;
    close_status_ = std::move(why);
    closing_.store(true, std::memory_order_seq_cst);
  }
  {
    BiasedLock lock(&send_mutex_);
    sending_ended_ = true;
    if (last && SealMessage(*last, options_->limits).ok()) Enqueue(last, UINT64_MAX);
  }
  FlushQueue();
  WakePeer();
  KickDriver();
  CallLoop();
}

bool ShmConnection::Linger() {
  if (linger_until_.infinite()) linger_until_ = Deadline::After(kLingerMax);
  if (FlushQueue()) {
    WakePeer();
    linger_ticks_ = 0;
  }
  if (!queue_waits() || peer_gone_.load(std::memory_order_seq_cst) ||
      linger_ticks_ > kLingerTicks || linger_until_.passed()) {
    return false;
  }
  link_->doorbell().Declare(kSocket | kWantsRoom);
  if (FlushQueue()) WakePeer();
  if (!queue_waits()) return false;
  if (linger_timer_ == nullptr) {
    linger_timer_ = std::make_unique<EventLoop::Timer>(loop_, [weak = weak_from_this()] {
      if (auto self = weak.lock()) {
        ++self->linger_ticks_;
        self->LoopTurn();
      }
    });
  }
  linger_timer_->Schedule(Deadline::After(kLingerTick));
  return true;
}

void ShmConnection::Finalize() {
  if (users_.load(std::memory_order_seq_cst) != 0) {
    // Some thread is inside Send or BeginClose, which do not block. The token stays ours.
    loop_->Post([self = shared_from_this()] { self->Finalize(); });
    return;
  }
  loop_->StopPolling(this);
  if (watching_) loop_->Unwatch(link_->socket(), this);
  lent_timer_.reset();
  stall_timer_.reset();
  trim_timer_.reset();
  linger_timer_.reset();
  // The peer reads what is in the ring when it notices. The descriptor is closed when the last
  // message that was read in place is released.
  ::shutdown(link_->socket(), SHUT_RDWR);
  while_open_.reset();

  absl::Status why;
  {
    MutexLock lock(&close_mutex_);
    why = close_status_;
  }
  TellRefused();
  MessageBody* unsent;
  {
    BiasedLock lock(&send_mutex_);
    unsent = std::exchange(first_, nullptr);
    SetQueueCount({});
  }
  const std::shared_ptr<ShmConnection> self = std::move(self_);  // may be the last reference
  const std::shared_ptr<Receiver> receiver = std::move(receiver_);
  Scope scope(this);
  while (unsent != nullptr) {
    OutgoingMessage message(std::exchange(unsent, unsent->next));
    if (receiver != nullptr && message->header.type != FrameType::kClose)
      receiver->OnUnsent(message->header, LostBeforeSend());
  }
  if (receiver != nullptr) receiver->OnClosed(why);
}

}  // namespace mi7::transport::shm
