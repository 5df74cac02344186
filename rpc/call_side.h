#pragma once

// CallSide: the half of a session that makes calls: the table of calls in flight and what ends
// them.

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/biased_mutex.h"
#include "base/limits.h"
#include "rpc/call_table.h"
#include "transport/connection.h"
#include "transport/message.h"

namespace mi7 {

class ClientCall;
class SessionStreams;

// Thread-safety: any thread, except the On... functions, which the driving thread calls.
class CallSide {
 public:
  // `streams` must outlive the CallSide.
  CallSide(SessionStreams* streams, const transport::Negotiated& negotiated, const Limits& limits);

  // Sends `call` and takes a reference until its return arrived or the connection ended. On
  // failure the call is failed ("not sent").
  void Send(ClientCall* call);
  // The same, or nothing at all: false when this side sends no further calls.
  bool TrySend(ClientCall* call);
  // Whether it does not. Without a lock: true stays true, false says nothing.
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  // Whether the peer recognizes calls that are made again.
  bool recognizes_calls() const { return recognizes_calls_; }
  // How many calls can be in flight: ours or the peer's limit, whichever is lower.
  uint32_t in_flight_max() const { return in_flight_max_; }
  // Whether it recognizes one that may have run at the server `instance`
  // (ClientCallExtras::recognized_by).
  bool Recognizes(uint64_t instance) const {
    return recognizes_calls_ && instance == peer_instance();
  }
  // Negotiated::peer_instance. Not quick: asked when something went wrong, and no session shall
  // keep it for that.
  uint64_t peer_instance() const;

  // Nobody waits for `call` any more. True: no byte of it has left or will, because it was taken
  // back or the connection has refused it. Otherwise the peer is told, and its id stays taken until
  // the return.
  bool Withdraw(ClientCall* call);

  // A return; INVALID_ARGUMENT when it belongs to no call in flight.
  absl::Status OnReturn(transport::IncomingMessage&& message);
  // A return that the transport could not deliver.
  absl::Status OnRejectedReturn(const transport::FrameHeader& header, const absl::Status& why);
  // Whether a frame served nothing.
  enum class Stray : uint8_t {
    kNo,
    kOfOpen,
    kOfEnded,  // it is for a call that was given up
  };
  // A frame of a stream of ours; INVALID_ARGUMENT when the peer broke the protocol. `stray` is
  // written when it is one.
  absl::Status OnStreamFrame(transport::IncomingMessage&& message, Stray& stray);
  // The same of a message that the transport could not deliver.
  absl::Status OnRejectedStreamMessage(const transport::FrameHeader& header,
                                       const absl::Status& why, Stray& stray);
  // A message of a stream of ours that it could not send.
  void OnUnsentStreamMessage(const transport::FrameHeader& header, const absl::Status& why);
  // A call that the connection dropped unsent.
  void OnUnsent(const transport::FrameHeader& header, const absl::Status& why);
  // Fails every call in flight as UNAVAILABLE, "may have run"; as refused, when the server has
  // named others.
  void OnClosed(const absl::Status& why);

  // While `call`, which was sent and has a continuation stored, is in flight, the event loop drives
  // the connection for its sake (Connection::SetBackground). True: the continuation is published.
  bool DriveInBackground(ClientCall* call);

  // From now on no new call is sent. True when none is in flight; else Idle() becomes true later,
  // reported by OnReturn's caller checking idle().
  void StopSending();
  // The same, before the channel closes the connection: calls in flight are told of that.
  void StopForClose();
  // As StopSending, when the server has said that of the calls in flight it has accepted these at
  // most: the others will not run, though their ids are taken until their returns. Ids that are not
  // in flight, or are named again, say nothing.
  void OnAcceptedNamed(const std::vector<uint32_t>& call_ids);
  bool idle() const;
  // StopSending, and true, if no call is in flight.
  bool StopSendingIfIdle();

 private:
  transport::Connection& connection() const;
  absl::Status closed() const;
  // How `call`, which was sent, ends when its connection is lost.
  absl::Status LostStatus(const ClientCall& call) const;
  // Whether `call` may go beyond in_flight_max_, where it is.
  bool HasControlRoom(const ClientCall& call) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // TrySend's, also its result, for a call that is not to be sent to a server that does not
  // recognize it.
  bool FailUnrecognized(ClientCall& call);
  absl::Status TooManyCalls() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A return with an error, without results, or of a call that has more than a plain one. Takes
  // over a reference.
  void TakeUnusualReturn(ClientCall* call, transport::IncomingMessage&& message);
  void TakeBackground(ClientCall* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveBackBackground(ClientCall* call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendCancelOf(uint32_t call_id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The call, in flight, will not be made again: what is kept of its request is dropped.
  void DropKept(uint32_t call_id, ClientCall& call);
  // A message of the call, a stream, cannot be delivered or sent. Takes over a reference.
  static void FailStream(ClientCall& call, const absl::Status& why);
  // Removes and returns the call with this id, whose table reference passes to the caller; nullptr
  // when there is none, or it is not the `expected` one.
  ClientCall* Take(uint32_t call_id, const ClientCall* expected = nullptr);
  // The call with this id, with a reference for the caller, or what stands for it in the table.
  ClientCall* Find(uint32_t call_id);

  SessionStreams* const streams_;
  const uint32_t in_flight_max_;  // ours or the peer's limit, whichever is lower
  mutable BiasedMutex mutex_;
  std::atomic<bool> stopped_{false};                     // changed under the mutex
  const bool recognizes_calls_;                          // here it takes no memory of its own
  bool names_accepted_ ABSL_GUARDED_BY(mutex_) = false;  // OnAcceptedNamed was called
  bool closes_ ABSL_GUARDED_BY(mutex_) = false;          // StopForClose was called
  uint32_t background_ ABSL_GUARDED_BY(mutex_) = 0;      // calls in flight that want it
  // Ids are reused at once after the return, as in Cap'n Proto RPC; the order of the connection
  // makes that unambiguous.
  CallTable calls_ ABSL_GUARDED_BY(mutex_);
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);  // why no call can be sent; OK before OnClosed
};

}  // namespace mi7
