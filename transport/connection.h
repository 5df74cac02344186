#pragma once

// The seam between rpc and transport.
//
// A Connection is reliable, ordered, message-oriented and bidirectional. It carries whole messages
// (frame.h, message.h) and knows nothing of calls. Each concrete transport (tcp/, inproc/, ...)
// implements Connection; rpc implements Receiver.
//
//   auto message = connection->Reserve(expected_bytes);      // where the message will be built
//   message->header.type = ...; message->builder...;
//   absl::Status sent = connection->Send(*std::move(message));
//
// Who calls what, on which thread:
// * Reserve, Send, Withdraw, Close, CloseWhenSent, SetBackground: any thread, at any time, also
//   from inside callbacks.
// * Await: any thread that is not inside a callback of this connection.
// * Receiver's callbacks: the thread that drives the connection at that moment: its event loop, or
//   a thread inside Await. Callbacks of one connection never overlap, and each happens after the
//   one before it. OnClosed is the last, exactly once, also when Close was called by us.
//
// In a forked child a connection of the parent is of no use: Reserve and Send fail with
// FAILED_PRECONDITION, Await returns false, the rest does nothing.
//
// Any thread may drive, one at a time. The event loop drives in the background. A thread in Await
// drives itself when nobody else does, because handing a reply from one thread to another costs
// more than a call; otherwise it sleeps until its Completion is completed or its turn comes.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/deadline.h"
#include "transport/completion.h"
#include "transport/message.h"

namespace mi7::transport {

// Implemented by the user of a connection.
class Receiver {
 public:
  virtual ~Receiver() = default;

  // A message arrived. Sends made inside are held back and written together when no further
  // received message is at hand ("corking"), so a burst of requests is answered by one write;
  // kCancel is not, which spares the peer work.
  // What is not moved out of `message` is released after the return.
  virtual void OnMessage(IncomingMessage&& message) = 0;

  // A message arrived whose header is sound but which cannot be used: it exceeds a limit
  // (RESOURCE_EXHAUSTED; its bytes were skipped, never stored) or its segment table is wrong
  // (INVALID_ARGUMENT). The stream goes on; what to answer is the receiver's affair: `header` says
  // which call it was. Sends are corked as in OnMessage.
  virtual void OnRejected(const FrameHeader& header, const absl::Status& why) = 0;

  // There is room again after Send or Reserve answered RESOURCE_EXHAUSTED for a full queue, or
  // HasRoom answered false: at most half of what would be too much is queued. Or RequestWritable
  // was called. Sends are corked as in OnMessage.
  virtual void OnWritable() = 0;

  // A message that Send had accepted was dropped before any byte of it was handed to the system:
  // the peer has certainly not seen it. UNAVAILABLE: the connection is dying; OnClosed follows and
  // says more. RESOURCE_EXHAUSTED: there is no memory for this message; the others go on.
  virtual void OnUnsent(const FrameHeader& header, const absl::Status& why) = 0;

  // The connection is gone; the last callback. OK when we closed it with OK or the peer ended it
  // in order at a message boundary; the peer's status, its message prefixed with who said it, when
  // the peer told why (kClose, which the transport reads itself and never delivers); otherwise what
  // happened. The connection drops its reference to the receiver afterwards.
  virtual void OnClosed(const absl::Status& why) = 0;
};

// Bit of Negotiated::features: both ends can use streams (protocol.capnp).
inline constexpr uint64_t kFeatureStreams = 2;
// The same: both ends recognize calls that are made again.
inline constexpr uint64_t kFeatureRequestIds = 4;
// What every end can use, on all transports.
inline constexpr uint64_t kFeaturesOfAll = kFeatureStreams | kFeatureRequestIds;

// What both ends agreed on, and what the peer accepts (protocol.capnp Hello). The transport keeps
// message_bytes_max itself; the rest is for the receiver to keep.
struct Negotiated {
  uint64_t features = 0;  // bits that both ends have
  uint32_t message_bytes_max = 0;
  uint32_t calls_in_flight_max = 0;
  uint32_t stream_window_bytes = 0;  // with the feature "streams", at least 1
  uint16_t version = 1;
  // Of the peer's instanceId (protocol.capnp), enough to see that it is another one than before.
  // 0: it told none.
  uint64_t peer_instance = 0;
};

// What OnUnsent says of a connection that is dying.
inline absl::Status LostBeforeSend() { return absl::UnavailableError("connection lost"); }

// RESOURCE_EXHAUSTED with `text`, marked: what Send and Reserve say of a full queue. Unlike a
// message that exceeds a limit, the same message may find room later.
absl::Status QueueFullError(absl::string_view text);
bool IsQueueFull(const absl::Status& status);

// Facts about a connection; constant from the moment Start is called.
struct ConnectionInfo {
  std::string transport;  // "shm", "unix", "tcp", "inproc"
  std::string peer;       // endpoint text, "tcp:127.0.0.1:4711"
  std::string local;
  Negotiated negotiated;
};

// Held by shared_ptr: dropping the last one closes the connection as Close(OK) does, and OnClosed
// follows all the same.
class Connection {
 public:
  virtual ~Connection() = default;

  // Begins delivery to `receiver`. Exactly once, before anything else; nothing is delivered or
  // lost before it. The connection shares ownership of the receiver until OnClosed returned.
  virtual void Start(std::shared_ptr<Receiver> receiver) = 0;

  // Memory for a message whose body is expected to take about `bytes` (a hint, not a bound).
  // QueueFullError: limits.queued_bytes_max is reached; OnWritable tells when to try again.
  // Only on connections that we opened: accepted ones stop reading further requests instead.
  // UNAVAILABLE: closed.
  virtual absl::StatusOr<OutgoingMessage> Reserve(size_t bytes) = 0;

  // Queues the message, and writes it at once when possible. The transport fills header.size and
  // header.extra_size. Consumes the message, also on failure. On failure the peer has not seen and
  // will not see any of it. Messages of another kind of memory (NewHeapMessage) are accepted by
  // every transport, at the price of a copy where the transport's memory is another.
  // RESOURCE_EXHAUSTED: the message exceeds a limit (named), or QueueFullError. On accepted
  // connections, which read no further requests when the queue is full, answers to those that were
  // read are refused at limits.unread_answer_bytes_max; small ones (kSmallAnswerBytes) never.
  // Frames of streams are not refused for a full queue: who sends one asks HasRoom before.
  // UNAVAILABLE: closed.
  virtual absl::Status Send(OutgoingMessage&& message) = 0;

  // Takes back a call that Send accepted, if no byte of it has left yet: true, and the peer will
  // not see it, nor OnUnsent come. False: it has left; or so many messages wait that it is not
  // looked for among all of them.
  virtual bool Withdraw(uint32_t call_id) = 0;

  // Whether fewer than limits.stream_queued_bytes_max bytes wait to be sent, on accepted
  // connections too. False: OnWritable follows, unless the connection ends before.
  virtual bool HasRoom() = 0;

  // OnWritable follows, also where there was room all along, unless the connection ends before. For
  // what must not overtake what callbacks have sent: a Send from another thread may, since that is
  // held back. Not before Start.
  virtual void RequestWritable() = 0;

  // Ends the connection: what was queued is still written as far as that goes without waiting,
  // then the peer sees the end. OnClosed(why) follows, on the event loop; nothing is delivered in
  // between, except that a callback that runs right now finishes. Idempotent: the first one counts.
  // A non-OK `why` is told to the peer in a kClose message.
  virtual void Close(absl::Status why) = 0;

  // Whether a Close at this moment could lose something that was sent, because the peer takes no
  // more of it now. Any thread, to which it may be otherwise by then.
  virtual bool HasUnsent() { return false; }

  // Close(OK) as soon as there is nothing of that kind, which is at once where there is nothing
  // now. Limits::write_stall_timeout bounds it. What arrives meanwhile may be read or not. A Close
  // that comes before counts.
  virtual void CloseWhenSent() { Close(absl::OkStatus()); }

  // Blocks until `completion` is done (true) or `deadline` passed (false), driving the connection
  // meanwhile when nobody else does. When the connection closes, the receiver's OnClosed is
  // expected to complete it.
  virtual bool Await(Completion& completion, Deadline deadline) = 0;

  // `wanted`: something waits for messages without a thread in Await (callbacks, coroutines), so
  // the event loop must drive promptly. When not wanted (the initial state of a client's
  // connection) the loop still notices messages and the end, but possibly up to 10 ms later while
  // threads use Await. Servers' connections are always driven promptly.
  virtual void SetBackground(bool wanted) = 0;

  // Whether the calling thread is inside a callback of this connection, or of its other end when
  // that is in this process and served by the same thread (where Await would wait for itself).
  virtual bool InCallback() const = 0;

  // Whether, since the last time, the peer has shown in another way than by a message that is
  // delivered that it is there: a part of a large one has arrived, or it has taken bytes that had
  // to wait for it. False where that does not happen. One thread at a time, any.
  virtual bool TakeSignsOfLife() { return false; }

  // Built on demand, so that an idle connection does not hold the texts. Any thread, also after
  // the end.
  virtual ConnectionInfo info() const = 0;
};

}  // namespace mi7::transport
