#pragma once

// StreamConnection: a Connection over a stream socket of our own, TCP or Unix.
//
// The socket is in blocking mode and belongs to no libuv handle: whoever drives reads it directly,
// a thread in Await as well as the event loop (driver.h). The loop watches it for readability only
// while nobody else drives:
//
// * A thread that begins to drive silences the loop's watch, so that a reply does not wake the loop
//   as well; when it stops it restores the watch. That is two system calls a call, so after
//   kHotDrives calls in a row the watch is left silent ("lent") and a timer of the loop restores it
//   when nobody has driven for a tick: a hot synchronous caller makes no system call but its send
//   and recv.
// * Why a message is never left unseen. All marked events are sequentially consistent.
//     loop, readable, token taken:  L1 watch off     L2 TryTake, and drive when it succeeds
//     driver that stops:            R1 token free    R2 if the watch is off and not lent: watch on
//     loop's timer:                 T1 not lent      T2 if the token is free: watch on
//     SetBackground(true):          B1 background    B2 if the token is free: watch on
//   Whatever comes first, the last of them finds what the others left: if L2 fails, then R1, and so
//   R2, is after L1 and restores the watch, unless lent, in which case T2 is still to come. If R2
//   sees "lent", T1 is after it, and T2 sees the free token or a later driver, whose R2 follows.
//   The watch is level-triggered, so what arrived meanwhile is reported then.
//
// A thread that writes one small message of a stream, or `-> stream` call, after the other would
// spend ten times as long on its system calls as on the messages. So one (MessageBody::may_gather)
// that comes right after a write was done is only queued, and the loop writes what has gathered
// meanwhile, unless somebody writes before: whoever sends something else, or waits on this
// connection. All marked events are sequentially consistent.
//     sender:  G1 queued        G2 gathers; if it was not, the loop is called
//     loop:    F1 gathers not   F2 writes what is queued
// If G2 finds that it gathers already, F1 is still to come, and F2 sees what G1 queued.
//
// Files: stream_connection.cc sends and ends, stream_driving.cc reads and waits.

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "base/mutex.h"
#include "transport/connection.h"
#include "transport/driver.h"
#include "transport/event_loop.h"
#include "transport/frame_assembler.h"
#include "transport/spin_budget.h"
#include "transport/stream/socket_watch.h"
#include "transport/stream/stream_context.h"
#include "transport/stream/writer.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

class StreamConnection final : public Connection,
                               public Watcher,
                               public SpinSource,
                               public std::enable_shared_from_this<StreamConnection> {
 public:
  // What the handshake leaves.
  struct Made {
    std::shared_ptr<StreamContext> context;
    EventLoop* loop;
    UniqueFd socket;           // connected, blocking, unwatched
    FrameAssembler assembler;  // with what came after the handshake
    Negotiated negotiated;
    bool accepted;  // by a listener, in whose context it is counted
  };
  // The user's handle: closes the connection when the last copy is dropped. The object itself
  // lives until its end, which happens on the loop.
  static std::shared_ptr<Connection> Create(Made made);
  explicit StreamConnection(Made made);  // for make_shared in Create

  void Start(std::shared_ptr<Receiver> receiver) override;
  absl::StatusOr<OutgoingMessage> Reserve(size_t bytes) override;
  absl::Status Send(OutgoingMessage&& message) override;
  bool Withdraw(uint32_t call_id) override;
  bool HasRoom() override;
  void RequestWritable() override;
  void Close(absl::Status why) override;
  bool HasUnsent() override;
  void CloseWhenSent() override;
  bool Await(Completion& completion, Deadline deadline) override;
  void SetBackground(bool wanted) override;
  bool InCallback() const override;
  bool TakeSignsOfLife() override { return peer_lives_.exchange(false, std::memory_order_relaxed); }
  ConnectionInfo info() const override;

  // Loop thread only.
  void OnReady(uint32_t events) override;
  bool Poll() override;

 private:
  // Marks this thread as running callbacks of a connection; they nest when a callback waits on
  // another connection.
  class DispatchScope;

  // Counts a thread among users_.
  class Use {
   public:
    explicit Use(std::atomic<uint32_t>& users) : users_(users) {
      users_.fetch_add(1, std::memory_order_seq_cst);
    }
    // Releases: what this thread did with the socket is over when Finalize sees the count.
    ~Use() { users_.fetch_sub(1, std::memory_order_release); }

   private:
    std::atomic<uint32_t>& users_;
  };

  enum class Read {
    kSome,     // and there was room for more
    kFull,     // as much as there was room for
    kNothing,  // in time
    kEnded,    // the stream, or the connection
  };

  // --- Sending and ending: stream_connection.cc

  bool forked() const { return socket_.forked(); }
  // The peer as an endpoint text.
  std::string peer() const { return context_->kind->PeerText(ends_, accepted_); }
  Limits send_limits() const;
  absl::Status ClosedError() const;
  absl::Status ForkedError() const;
  absl::Status QueueFull(uint32_t message_bytes);
  // Send inside a callback, and the write of what it held back.
  absl::Status Cork(DispatchScope& scope, OutgoingMessage message);
  void Uncork(DispatchScope& scope);
  // Whether a message is to wait for others.
  bool Gathers(const FrameHeader& header) const;
  void NoteGathered();
  void NoteSeriesWritten() {
    series_written_ns_.store(static_cast<uint32_t>(MonotonicNanos()), std::memory_order_relaxed);
  }
  // Writes what has gathered.
  void WriteGathered();
  // Does what a write's result asks for.
  void AfterWrite(const Writer::Result& result);
  // Does what CloseWhenSent has asked for.
  void CloseIfSent();
  // Begins the end; the first one counts. `tell`: in a kClose message to the peer.
  void BeginClose(absl::Status why, bool tell);
  // The end itself. Loop thread, holding the token for ever.
  void Finalize();
  void CheckStall();
  bool closing() const { return closing_.load(std::memory_order_seq_cst); }

  // --- Driving: stream_driving.cc. Except where noted by the holder of the token.

  // Drives until `completion` is done, `deadline` has passed or nobody can drive.
  void Drive(Completion& completion, Deadline deadline);
  bool AwaitTurns(Completion& completion, Deadline deadline);
  // One recv, and the dispatch of what it brought. `flags`: MSG_DONTWAIT or 0.
  Read ReadOnce(int flags);
  // Blocks until something is readable or `deadline` has passed; then reads.
  Read ReadBlocking(Deadline deadline);
  void Dispatch();
  // A message is half there, after a read.
  void NoteArrival();
  // Loop thread only.
  void CheckArrival();
  // Whether something has come that was not read.
  bool BytesWait() const;
  void LookAtArrival(int64_t due_ns);
  void Deliver(FrameAssembler::Received& received);
  // The stream has ended; `error` is recv's errno, 0 for an orderly end.
  void EndOfStream(int error);
  // Delivers OnWritable when its time has come.
  void TellRoom();
  bool PauseWhenFull();
  bool CanDrive() const { return !closing() && !paused_.load(std::memory_order_seq_cst); }
  void ReleaseToken();
  void LendWatch();
  // Any thread: makes the loop run LoopTurn.
  void CallLoop();
  void LoopTurn();
  void CheckLent();
  bool wants_background() const { return accepted_ || background_.load(std::memory_order_seq_cst); }

  // A timer that looks whether something has changed.
  struct Look {
    Look(EventLoop* loop, absl::AnyInvocable<void()> look) : timer(loop, std::move(look)) {}
    EventLoop::Timer timer;
    uint32_t seen = 0;  // by the last look
  };
  // What bounds the time of a message of which only a part is there
  // (Limits::message_arrival_timeout). Messages that arrive in one piece have none.
  struct Arrival {
    static constexpr int64_t kNoMessage = std::numeric_limits<int64_t>::max();
    Arrival(EventLoop* loop, absl::AnyInvocable<void()> look) : timer(loop, std::move(look)) {}
    EventLoop::Timer timer;
    int64_t began_ns = 0;  // holder of the token
    // When it has to be complete; kNoMessage: none is half there. Written by the holder of the
    // token, and by looks. Relaxed: a look that does not see the last value is as one that came
    // before it.
    std::atomic<int64_t> due_ns{kNoMessage};
    // Of the next look, in the time of deadlines and, for when it was set, in real time. The first
    // one is soon, as most messages are complete soon; the later the others.
    int64_t step_ns = 100'000'000;
    int64_t look_ns = 0;
    int64_t set_ns = 0;
    int64_t set_system_ns = 0;
  };

  const std::shared_ptr<StreamContext> context_;
  EventLoop* const loop_;
  UniqueFd socket_;
  const StreamEnds ends_;
  const Negotiated negotiated_;
  const bool accepted_;

  DriverToken token_;
  // Guarded by the token.
  FrameAssembler assembler_;
  SpinBudget budget_;
  std::shared_ptr<Receiver> receiver_;
  std::shared_ptr<StreamConnection> self_;  // from Start until the end: the loop refers to it

  Writer writer_;
  SocketWatch watch_;

  std::atomic<bool> closing_{false};
  // Flags beside each other, for the memory of idle connections.
  std::atomic<bool> background_{false};
  // A message has been queued for others to join it, and the loop will write it.
  std::atomic<bool> gathers_{false};
  // An accepted connection reads no further until the peer has taken our answers.
  std::atomic<bool> paused_{false};
  // It is to be closed when what was sent is written; one that has paused does not read on.
  std::atomic<bool> closes_when_sent_{false};
  // Threads inside Send or BeginClose that may still use the socket or the loop. Raised before
  // closing_ is read or set; Finalize reads it after closing_ was set (all seq_cst), so it sees
  // whoever did not see that.
  std::atomic<uint32_t> users_{0};
  std::atomic<bool> lent_{false};
  std::atomic<uint8_t> hot_drives_{0};
  std::atomic<bool> stall_watched_{false};
  // Something was read, or there was room again for what had to wait. Relaxed: what one look misses
  // the next one sees.
  std::atomic<bool> peer_lives_{false};
  // When messages that may wait for others were last written. Relaxed: a thread's own order is what
  // counts, and another's makes it write once more, or once less, by itself.
  // The low bits of MonotonicNanos: a series that goes on after 4.3 s may gather once in vain.
  std::atomic<uint32_t> series_written_ns_{0};
  std::atomic<int> write_error_{0};
  std::atomic<uint32_t> drives_{0};
  std::atomic<uint32_t> writes_{0};

  mutable Mutex close_mutex_;
  absl::Status close_status_ ABSL_GUARDED_BY(close_mutex_);

  // Loop thread only; made when first needed.
  std::unique_ptr<Look> lent_look_;
  std::unique_ptr<Look> stall_look_;
  // Made by the holder of the token, who uses it while it is there; a look of the loop's that has
  // the token ends it when no message was half there.
  std::unique_ptr<Arrival> arrival_;
};

// An idle established connection takes at most 1 KiB of user memory with what rpc adds to it.
static_assert(sizeof(StreamConnection) <= 520);

}  // namespace mi7::transport
