#pragma once

// StreamUpgrade: how a handshake over a Unix socket ends in something better than a stream.
//
// The client's Hello comes with a descriptor of its half of the memory; the server looks at it,
// makes its own half and answers with it, or without and says why not (docs/WIRE.md). What the
// halves are is the implementation's affair (transport/shm/).

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "transport/connection.h"
#include "transport/event_loop.h"
#include "transport/unique_fd.h"

namespace mi7::transport {

// One handshake's. Loop thread only. In this order: Offer and Verify (client), Verify and Offer
// (server), then Make when both succeeded.
class StreamUpgrade {
 public:
  virtual ~StreamUpgrade() = default;

  // Makes our half: the descriptor to pass, which stays ours and valid for the handshake. An error
  // tells what keeps us from it.
  virtual absl::StatusOr<int> Offer() = 0;

  // Looks at the peer's half. INVALID_ARGUMENT: it is nothing that a sound peer sends, and the
  // connection ends; other errors: we cannot use it, which a server tells as its reason.
  virtual absl::Status Verify(UniqueFd theirs) = 0;

  // What a handshake leaves.
  struct Made {
    EventLoop* loop;
    UniqueFd socket;  // connected, blocking, unwatched; exactly the handshake was read from it
    Negotiated negotiated;
    bool accepted;
    // Released when the connection has ended; counts it.
    std::shared_ptr<void> while_open;
  };
  virtual std::shared_ptr<Connection> Make(Made made) = 0;
};

}  // namespace mi7::transport
