#pragma once

// ShmConnection: a Connection over shared memory.
//
// Messages travel through the rings and slots of two halves (layout.h, link.h). Whoever drives
// polls the peer's ring, and sleeps as doorbell.h says: a thread in Await on the peer's bell, the
// event loop in its epoll, where the socket becomes readable. The socket also tells of the peer's
// end, whatever it died of.
//
// * What tells the loop of messages while no thread drives: the declaration kSocket, made by
//   whoever stops driving. It costs two cache misses a call, so after kHotDrives calls in a row
//   nothing is declared ("lent") and a timer of the loop looks after the connection until nobody
//   has driven for a tick: a hot synchronous caller writes nothing but its messages.
// * While a connection is active, a loop polls it (SpinSource) and nothing is declared; before the
//   loop sleeps, or when the connection has been quiet for long, it is put to Rest. The loop keeps
//   the token of an accepted one between its polls as long as no thread wants it: it looks at every
//   poll.
// * Why no message is left unseen: `attention` is written by the holder of the token alone. Who
//   releases the token has declared kSocket and looked once more (DeclareSleep), or the loop polls
//   (`polled_`), or the connection is lent, and then the loop's timer is still to come. A loop that
//   wants the token for any of these and does not get it is called by the release that follows
//   (DriverToken::TryTakeForLoop), unless the connection is lent and there is nothing but messages
//   to look for (LoopHasWork): on a CPU that caller and loop share the loop runs only while the
//   caller waits, and has the token, so it would be called by every call and never get it.
// * Why the loop may be left uncalled. Marked events are sequentially consistent:
//     loop:      P1 something comes to be the loop's work    P2 TakeTokenForLoop fails
//     releaser:  R1 frees the token    R3 sees that the loop wants it    H LoopHasWork
//   P2 found the token held, so P1 is before the R1 that ends this hold, and H sees it. The end of
//   being lent is such a P1: whoever sees `lent_` in H is before the LoopTurn of CheckLent, which
//   comes for all that was left.
//
// Files: connection.cc sends, putting.cc writes one message, driving.cc reads and waits, ending.cc
// ends and watches.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "base/biased_mutex.h"
#include "base/mutex.h"
#include "transport/callback_scope.h"
#include "transport/connection.h"
#include "transport/driver.h"
#include "transport/event_loop.h"
#include "transport/message_queue.h"
#include "transport/shm/link.h"
#include "transport/shm/ring.h"
#include "transport/shm/shm_connection.h"
#include "transport/shm/slot_pool.h"
#include "transport/spin_budget.h"

namespace mi7::transport::shm {

class ShmConnection final : public Connection,
                            public Watcher,
                            public SpinSource,
                            public std::enable_shared_from_this<ShmConnection> {
 public:
  explicit ShmConnection(ShmMade made);
  ~ShmConnection() override;

  void Start(std::shared_ptr<Receiver> receiver) override;
  absl::StatusOr<OutgoingMessage> Reserve(size_t bytes) override;
  absl::Status Send(OutgoingMessage&& message) override;
  bool Withdraw(uint32_t call_id) override;
  bool HasRoom() override;
  void RequestWritable() override;
  void Close(absl::Status why) override;
  bool HasUnsent() override { return !link_->forked() && queue_waits(); }
  void CloseWhenSent() override;
  bool Await(Completion& completion, Deadline deadline) override;
  void SetBackground(bool wanted) override;
  bool InCallback() const override;
  ConnectionInfo info() const override;

  // Loop thread only.
  void OnReady(uint32_t events) override;
  bool Poll() override;
  bool Rest() override;

 private:
  // Marks this thread as running callbacks; the peer is woken once for all that they send.
  class Scope;

  // Counts a thread among users_.
  class Use {
   public:
    explicit Use(std::atomic<uint32_t>& users) : users_(users) {
      users_.fetch_add(1, std::memory_order_seq_cst);
    }
    // Releases: what this thread did is over when Finalize sees the count.
    ~Use() { users_.fetch_sub(1, std::memory_order_release); }

   private:
    std::atomic<uint32_t>& users_;
  };

  // --- Sending: connection.cc and putting.cc. Ending: ending.cc

  Limits send_limits() const;
  uint64_t queue_max() const { return options_->limits.queued_bytes_max; }
  bool QueueFullNow() const { return queue_count().weight() >= queue_max(); }
  absl::Status ClosedError() const;
  absl::Status ForkedError() const;
  absl::Status QueueFull(uint64_t message_bytes);

  enum class Put : uint8_t {
    kDone,
    kNoRoom,   // at the moment
    kRefused,  // the system gives no memory for it; `why` says what is missing
  };
  // Writes a sealed message into the ring and takes it over, if there is room for it.
  Put PutMessage(OutgoingMessage& message, absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);
  Put PutStream(OutgoingMessage& message, absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);
  // A slot of the pool's into which `bytes` are copied, in a chunk that the peer has. Empty: `put`
  // says why.
  Slot TakeKnownSlot(uint64_t bytes, Put& put, absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);
  // Sees to it that the peer has the chunk: kDone.
  Put AnnounceChunk(uint32_t size_class, absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);
  bool Enqueue(OutgoingMessage& message, uint64_t bound) ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);
  // Moves the next message of the queue from `link` on that holds slots to other memory.
  bool Evacuate(MessageBody** link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_);
  // Writes what waits, as far as there is room; whether anything was written. Does not wake. What
  // is refused leaves the queue, and is told by TellRefused.
  bool FlushQueue();
  // Holder of the token.
  void TellRefused();
  void WakePeer(bool only_for_room = false) { link_->doorbell().WakePeer(only_for_room); }
  bool queue_waits() const { return queued_bytes_.load(std::memory_order_seq_cst) != 0; }
  Queued queue_count() const {
    return {.bytes = queued_bytes_.load(std::memory_order_seq_cst),
            .messages = queued_messages_.load(std::memory_order_seq_cst)};
  }
  void SetQueueCount(const Queued& queued) ABSL_EXCLUSIVE_LOCKS_REQUIRED(send_mutex_) {
    queued_bytes_.store(queued.bytes, std::memory_order_seq_cst);
    queued_messages_.store(static_cast<uint32_t>(queued.messages), std::memory_order_seq_cst);
  }
  // Whether CloseWhenSent has asked for the end, and it is time.
  bool IsSentAndToBeClosed() const {
    return closes_when_sent_.load(std::memory_order_seq_cst) && !queue_waits();
  }
  // Begins the end then; whether it did.
  bool CloseIfSent();
  // Begins the end; the first one counts. `tell`: in a kClose message to the peer.
  void BeginClose(absl::Status why, bool tell);
  // Closing, and something is queued for which a living peer makes room: the end comes later.
  bool Linger();
  // The end itself. Loop thread, holding the token for ever.
  void Finalize();
  // While something is queued, from the first of it on.
  void CheckStall();
  // Some thread has given back a slot that what is queued may lack. The pool's lock is held.
  void SlotCameFree();
  // Some thread has committed pages, which go back when nothing was sent for a while. The pool's
  // lock is held.
  void TrimLater();
  void ScheduleTrim(absl::Duration after);
  void CheckTrim();
  bool closing() const { return closing_.load(std::memory_order_seq_cst); }

  // --- Driving: driving.cc. Except where noted by the holder of the token.

  void Drive(Completion& completion, Deadline deadline);
  bool AwaitTurns(Completion& completion, Deadline deadline);
  // Dispatches what the ring holds, at most `records` of it; whether there was anything.
  bool ReadRing(int records);
  void Deliver(IncomingMessage&& message);
  void Reject(const absl::Status& why);
  // Everything there is to do at the moment but waiting: errands, then the ring. Whether there was
  // anything.
  bool Work();
  // Work that needs no message to arrive: room to be told of, reading to be resumed, the end.
  bool HasErrand() const {
    return peer_gone_.load(std::memory_order_seq_cst) ||
           refused_any_.load(std::memory_order_seq_cst) || IsSentAndToBeClosed() ||
           (room_wanted_.load(std::memory_order_seq_cst) && HasRoomToTell()) ||
           (paused_.load(std::memory_order_seq_cst) && QueueLow());
  }
  bool DoErrands();
  bool QueueLow() const { return queue_count().IsHalf(options_->limits); }
  // Whether so little is queued that OnWritable tells of room.
  bool HasRoomToTell() const { return queue_count().IsLow(options_->limits); }
  void ReadSocket();
  bool PauseWhenFull();
  bool CanDrive() const { return !closing() && !paused_.load(std::memory_order_seq_cst); }
  // Lets the peer use what was read of its ring.
  void PublishConsumed();
  // Declares how this side sleeps, and looks once more. False: there is something to do.
  bool DeclareSleep(uint32_t mode);
  void SleepInFutex(Completion& completion, Deadline deadline);
  // Sees to it that messages are noticed when nobody drives any more; then frees the token.
  void ReleaseToken();
  // After a release: whether there is anything for a loop that wanted the token, which will not
  // look by itself soon.
  bool LoopHasWork() const;
  // On the loop: the same by polling, if that is worth it.
  void Settle();
  // On the loop.
  bool TakeTokenForLoop() { return keeps_token_ || token_.TryTakeForLoop(); }
  bool Lend();
  // Any thread: makes the loop run LoopTurn.
  void CallLoop();
  void LoopTurn();
  void CheckLent();
  bool wants_background() const { return accepted_ || background_.load(std::memory_order_seq_cst); }
  // Any thread: makes a driver that sleeps look around.
  void KickDriver();

  const std::shared_ptr<const TransportOptions> options_;
  EventLoop* const loop_;
  Link* const link_;      // one reference
  SlotPool* const pool_;  // until Detach in the destructor
  const Negotiated negotiated_;
  const bool accepted_;
  const std::string peer_;
  const std::string local_;
  std::shared_ptr<void> while_open_;

  DriverToken token_;
  // Guarded by the token.
  RingReader reader_;
  SpinBudget budget_;
  std::shared_ptr<Receiver> receiver_;
  std::shared_ptr<ShmConnection> self_;  // from Start until the end: the loop refers to it

  BiasedMutex send_mutex_;
  RingWriter writer_ ABSL_GUARDED_BY(send_mutex_);
  // Waiting for room, in order; linked by `next`.
  MessageBody* first_ ABSL_GUARDED_BY(send_mutex_) = nullptr;
  MessageBody* last_ ABSL_GUARDED_BY(send_mutex_) = nullptr;
  // Whether any of them may hold slots: else none is looked for, at each attempt to write the
  // first.
  bool holders_queued_ ABSL_GUARDED_BY(send_mutex_) = false;
  // What left the queue because there was no memory for it, for the receiver to be told.
  struct Refused {
    FrameHeader header;
    absl::Status why;
  };
  std::vector<Refused> refused_ ABSL_GUARDED_BY(send_mutex_);
  uint32_t announced_ ABSL_GUARDED_BY(send_mutex_) = 0;  // a bit for each class
  bool sending_ended_ ABSL_GUARDED_BY(send_mutex_) = false;
  // Changed under send_mutex_, read without it for a first guess; seq_cst, so that a thread that
  // queues and one that sleeps or makes room see each other.
  std::atomic<uint64_t> queued_bytes_{0};
  std::atomic<uint32_t> queued_messages_{0};
  // Somebody was refused and is to be told of room, or wants to be called in any case.
  std::atomic<bool> room_wanted_{false};

  std::atomic<bool> closing_{false};
  // Threads that may still call the loop. Raised before closing_ is read or set; Finalize reads it
  // after closing_ was set (all seq_cst), so it sees whoever did not see that.
  std::atomic<uint32_t> users_{0};
  std::atomic<bool> background_{false};
  // An accepted connection reads no further until the peer has taken our answers.
  std::atomic<bool> paused_{false};
  std::atomic<bool> closes_when_sent_{false};
  std::atomic<bool> lent_{false};
  std::atomic<bool> polled_{false};  // by the loop, which will put it to Rest
  std::atomic<bool> peer_gone_{false};
  std::atomic<bool> stall_watched_{false};  // CheckStall goes on, or is about to begin
  std::atomic<bool> refused_any_{false};    // refused_ is not empty; changed under send_mutex_
  // The last turn has read several records, so several calls are in flight and what we write comes
  // in bursts, too. Relaxed: a hint, written by the holder of the token.
  std::atomic<bool> bursts_{false};
  // The socket told of something while a thread drove: whoever declares kSocket reads it first, for
  // a full socket would take no more wakeups.
  std::atomic<bool> socket_unread_{false};
  std::atomic<uint8_t> hot_drives_{0};
  std::atomic<uint32_t> drives_{0};
  std::atomic<uint32_t> writes_{0};
  // Incremented to make a sleeping driver look around; seq_cst with `futex_sleeper_`.
  std::atomic<uint32_t> kick_{0};
  std::atomic<bool> futex_sleeper_{false};

  mutable Mutex close_mutex_;
  absl::Status close_status_ ABSL_GUARDED_BY(close_mutex_);

  // Loop thread only.
  bool keeps_token_ = false;  // it has the token between two polls
  uint32_t quiet_polls_ = 0;  // fruitless ones in a row

  // Loop thread only; made when first needed.
  std::unique_ptr<EventLoop::Timer> lent_timer_;
  std::unique_ptr<EventLoop::Timer> stall_timer_;
  std::unique_ptr<EventLoop::Timer> trim_timer_;
  std::unique_ptr<EventLoop::Timer> linger_timer_;
  uint32_t linger_ticks_ = 0;
  Deadline linger_until_;
  uint32_t lent_seen_ = 0;
  uint32_t stall_seen_ = 0;
  uint32_t trim_seen_ = 0;
  absl::Duration trim_after_;
  bool watching_ = false;
};

}  // namespace mi7::transport::shm
