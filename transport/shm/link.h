#pragma once

// Link: what a connection and the messages it has delivered share, which may outlive it: both
// halves, the peer's slots, the socket.

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "base/limits.h"
#include "transport/message.h"
#include "transport/shm/doorbell.h"
#include "transport/shm/half.h"
#include "transport/shm/ring.h"
#include "transport/unique_fd.h"

namespace mi7::transport::shm {

// Reference-counted: one reference is the connection's, one each delivered message's that is read
// in place. Reading (Parse) is for the holder of the connection's token; Release for any thread.
class Link final : public Backing {
 public:
  // `trusted`: messages are read where the peer built them; otherwise they are copied first.
  Link(LocalHalf mine, PeerHalf theirs, UniqueFd socket, bool trusted);

  Control& mine() { return mine_.control(); }
  const Control& theirs() const { return theirs_.control(); }
  int socket() const { return socket_.get(); }
  Doorbell& doorbell() { return doorbell_; }
  const ShmOptions& options() const { return mine_.options(); }
  bool trusted() const { return trusted_; }
  // Whether this process was forked from the one that made the connection, and must not use it.
  bool forked() const { return socket_.forked(); }

  // Turns a record into `message`, which is empty before, and after a failure.
  // RESOURCE_EXHAUSTED: it exceeds a limit; INVALID_ARGUMENT with `broken` false: it is malformed
  // in itself. In both cases it is dropped, what it took is released, and the connection goes on.
  // Any status with `broken` true: the peer does not keep the protocol.
  absl::Status Parse(const Record& record, const Limits& limits, bool& broken,
                     IncomingMessage& message);

  // Reads what came on the socket: wakeups, which need no answer, and chunks, which are kept.
  // kEnd: the peer has closed it. kMore: it sends faster than it is read; to be called again after
  // others had their turn. A non-OK `broken`: it sent what the protocol does not allow.
  enum class SocketState : uint8_t { kOpen, kMore, kEnd };
  SocketState ReadSocket(absl::Status& broken);

  // Passes the descriptor of one of our chunks to the peer. UNAVAILABLE: the peer is gone.
  // RESOURCE_EXHAUSTED: the system does not take it now.
  absl::Status SendChunk(uint32_t size_class, int descriptor);

  // One message was released; `cookie` says which slots it lay in.
  void Release(uint64_t cookie) override;
  void Unref();

 private:
  // The slots of a message in pieces.
  struct SlotList;

  ~Link() = default;
  // Where the piece lies, and the bit of its first slot. INVALID_ARGUMENT: nowhere.
  absl::Status Resolve(const Descriptor& piece, std::span<const std::byte>& bytes, uint32_t& bit);
  absl::Status KeepChunk(uint32_t size_class, UniqueFd descriptor);
  void FlipReleased(uint32_t bit);
  // Its class, and which one it is there.
  std::pair<uint32_t, uint32_t> SlotOfBit(uint32_t bit) const;
  // Slots that a piece lies in, which was resolved.
  uint32_t SlotsOf(const Descriptor& piece) const;
  // Counts a piece that will be read in place. False: so many slots of its class are in the hands
  // of users, or such ones, that the message is better copied, lest those who keep messages stall
  // the others.
  bool Keep(const Descriptor& piece, const Limits& limits);
  void MarkHeld(uint32_t first, uint32_t slots, bool held);
  // Whether enough slots of the last class that are adjacent are in no user's hands: for the
  // largest message, or half of them all.
  bool HasRoomForLargest(const Limits& limits) const;

  absl::Status ParseInline(const Record& record, bool& broken, IncomingMessage& message);
  // Of at most `kPiecesMax` pieces, some of which may be in the record itself.
  template <uint32_t kPiecesMax>
  absl::Status ParsePieces(const Record& record, const Limits& limits, bool& broken,
                           IncomingMessage& message);
  absl::Status ParseStream(const Record& record, const Limits& limits, bool& broken,
                           IncomingMessage& message);

  LocalHalf mine_;
  PeerHalf theirs_;
  UniqueFd socket_;
  const bool trusted_;
  // Taking is relaxed: the taker has one. Dropping releases and acquires, so that every use of the
  // memory comes before its end.
  std::atomic<uint32_t> refs_{1};
  Doorbell doorbell_;
  std::array<Mapping, kClassesMax> chunks_;  // the peer's
  // Slots of each class that are read in place. Relaxed: a bound that may be off by a few.
  std::array<std::atomic<uint32_t>, kClassesMax> kept_{};
  // The same for each slot of the last class, a bit each: its pieces may need several that are
  // adjacent. Made with the first such piece. Set by whoever parses. Relaxed; a bit is cleared
  // before the slot is released, and so before its owner can use it for another message.
  std::unique_ptr<std::atomic<uint64_t>[]> held_;
};

}  // namespace mi7::transport::shm
