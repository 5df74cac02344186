#pragma once

// TcpHandshake: makes a connection of a connected socket, on the event loop.

#include <array>
#include <memory>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "transport/event_loop.h"
#include "transport/frame_assembler.h"
#include "transport/handshake.h"
#include "transport/tcp/socket.h"
#include "transport/tcp/tcp_connection.h"

namespace mi7::transport {

// Lives until its result is delivered. Loop thread only.
class TcpHandshake final : public Watcher, public std::enable_shared_from_this<TcpHandshake> {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<std::shared_ptr<Connection>>)>;

  // `socket` is connected. `accepted`: by a listener; then it is counted in `context` already,
  // and no longer when the handshake fails. `done` is called once, possibly inside Start.
  // DEADLINE_EXCEEDED: `deadline`. UNAVAILABLE: the peer closed. FAILED_PRECONDITION: it speaks
  // something else, or no common version. INVALID_ARGUMENT: it breaks the rules of mi7.
  // What the peer said in a kClose: as it said.
  static std::shared_ptr<TcpHandshake> Start(EventLoop* loop, UniqueFd socket,
                                             std::shared_ptr<TcpContext> context, bool accepted,
                                             Deadline deadline, Done done);
  ~TcpHandshake();

  // Ends it with `why`, unless it has ended.
  void Cancel(absl::Status why);

  void OnReady(uint32_t events) override;

 private:
  TcpHandshake(EventLoop* loop, UniqueFd socket, std::shared_ptr<TcpContext> context, bool accepted,
               Done done);
  void Begin(Deadline deadline);
  // These return false when the handshake is over, or must wait for more bytes.
  bool ReadOpening();
  bool ReadMessage();
  // Our opening and `message`, at once: what a new socket takes in any case.
  bool SendOpeningAnd(OutgoingMessage message);
  // Bytes of the peer into `space`; 0 when there are none yet, or the handshake is over.
  size_t Receive(std::span<std::byte> space);
  // Ends it with `why`; when the peer speaks mi7 it is told.
  void Refuse(absl::Status why);
  void Finish(absl::StatusOr<PeerHello> result);

  EventLoop* const loop_;
  UniqueFd socket_;
  const std::shared_ptr<TcpContext> context_;
  const bool accepted_;
  Done done_;
  Limits limits_;
  FrameAssembler assembler_;
  std::array<std::byte, kOpeningBytes> opening_{};
  size_t opening_bytes_ = 0;
  bool greeted_ = false;
  bool watched_ = false;
  EventLoop::Timer timer_;
  std::shared_ptr<TcpHandshake> self_;
};

}  // namespace mi7::transport
