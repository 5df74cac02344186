#pragma once

// StreamHandshake: makes a connection of a connected socket, on the event loop.

#include <array>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "transport/event_loop.h"
#include "transport/frame_assembler.h"
#include "transport/handshake.h"
#include "transport/stream/descriptors.h"
#include "transport/stream/stream_context.h"
#include "transport/stream/stream_upgrade.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// What a handshake makes.
struct StreamMade {
  std::shared_ptr<Connection> connection;  // to be started
  InstanceId peer;                         // the name in the peer's Hello; zero when it gave none
  std::string declined;  // why a stream although we wanted an upgrade; empty when there is one
};

// Lives until its result is delivered. Loop thread only.
class StreamHandshake final : public Watcher, public std::enable_shared_from_this<StreamHandshake> {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<StreamMade>)>;

  // `socket` is connected. `accepted`: by a listener; then it is counted in `context` already,
  // and no longer when the handshake fails. `done` is called once, possibly inside
  // Start.
  // DEADLINE_EXCEEDED: `deadline`. UNAVAILABLE: the peer closed. FAILED_PRECONDITION: it speaks
  // something else, no common version, or declined an upgrade that is required. INVALID_ARGUMENT:
  // it breaks the rules of mi7. What `terms.admit` says of it. What the peer said
  // in a kClose: as it said.
  static std::shared_ptr<StreamHandshake> Start(EventLoop* loop, UniqueFd socket,
                                                std::shared_ptr<StreamContext> context,
                                                std::shared_ptr<const StreamTerms> terms,
                                                bool accepted, Deadline deadline, Done done);
  ~StreamHandshake();

  // Ends it with `why`, unless it has ended.
  void Cancel(absl::Status why);

  void OnReady(uint32_t events) override;

 private:
  StreamHandshake(EventLoop* loop, UniqueFd socket, std::shared_ptr<StreamContext> context,
                  std::shared_ptr<const StreamTerms> terms, bool accepted, Done done);
  void Begin(Deadline deadline);
  // A client's first words.
  void Greet();
  // These return false when the handshake is over, or must wait for more bytes.
  bool ReadOpening();
  bool ReadMessage();
  void Answer(const PeerHello& hello);    // a server that has the client's Hello
  void Conclude(const PeerHello& hello);  // a client that has the server's Hello
  // As server: our descriptor when the offer that came with the Hello is taken; -1 when there is
  // none or it is not, and in `declined` why not. An error ends the connection.
  absl::StatusOr<int> TakeOffer(const PeerHello& hello, std::string& declined);
  // Our opening, unless it is out, and `message`, at once: what a new socket takes in any case.
  // `descriptor`, unless -1, goes with it.
  bool SendOpeningAnd(OutgoingMessage message, int descriptor = -1);
  // Bytes of the peer into `space`; 0 when there are none yet, or the handshake is over.
  size_t Receive(std::span<std::byte> space);
  // Ends it with `why`; when the peer speaks mi7 it is told.
  void Refuse(absl::Status why);
  void Finish(absl::Status why);
  void Succeed(const PeerHello& hello, bool upgraded, std::string declined = {});
  // Forgets timer and watch; what is returned keeps us alive.
  std::shared_ptr<StreamHandshake> Leave();
  std::string PeerText() const { return context_->kind->PeerText(socket_.get(), accepted_); }

  EventLoop* const loop_;
  UniqueFd socket_;
  const std::shared_ptr<StreamContext> context_;
  const std::shared_ptr<const StreamTerms> terms_;
  const bool accepted_;
  Done done_;
  Limits limits_;
  FrameAssembler assembler_;
  std::array<std::byte, kOpeningBytes> opening_{};
  size_t opening_bytes_ = 0;
  bool greeted_ = false;
  bool watched_ = false;
  ReceivedDescriptors descriptors_;
  std::unique_ptr<StreamUpgrade> upgrade_;
  bool offered_ = false;  // as client
  absl::Status unable_;   // as client: why nothing was offered
  EventLoop::Timer timer_;
  std::shared_ptr<StreamHandshake> self_;
};

}  // namespace mi7::transport
