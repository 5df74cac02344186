#pragma once

// What the connections of one listener, or of one Connect, and their handshakes have in common, and
// what tells kinds of stream sockets (tcp/, unix/) apart.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/limits.h"
#include "transport/instance_id.h"
#include "transport/transports.h"
#include "transport/wait_policy.h"

namespace mi7::transport {

// Who is at the two ends of a socket, in the memory of two IPv6 addresses: an idle connection does
// not hold texts. What the bytes mean is known to the StreamKind that wrote them.
struct StreamEnds {
  alignas(uint32_t) std::array<std::byte, 28> peer{};
  alignas(uint32_t) std::array<std::byte, 28> local{};
};
static_assert(sizeof(StreamEnds) == 56);

// A kind of stream socket, or one of its endpoints. Constant, so any thread may ask. Nothing of it
// is called on the way of a message.
class StreamKind {
 public:
  virtual ~StreamKind() = default;

  // ConnectionInfo::transport.
  virtual absl::string_view name() const = 0;
  // Whether a peer can pass descriptors over it.
  virtual bool passes_descriptors() const = 0;
  // Settings of a connected socket that only this kind has.
  virtual void Configure(int fd, const Limits& limits) const = 0;
  // Reads them from a connected socket; `accepted`: by a listener. The peer may be gone already.
  virtual StreamEnds EndsOf(int fd, bool accepted) const = 0;
  // As endpoint texts.
  virtual std::string PeerText(const StreamEnds& ends, bool accepted) const = 0;
  virtual std::string LocalText(const StreamEnds& ends, bool accepted) const = 0;

  // Of a socket that is no connection yet.
  std::string PeerText(int fd, bool accepted) const {
    return PeerText(EndsOf(fd, accepted), accepted);
  }
};

// What connections share with those that were made the same way, and keep while they are idle.
struct StreamContext {
  // `its_kind` must outlive it: a constant, or what lies beside it in memory.
  StreamContext(const TransportOptions& options, const StreamKind* its_kind)
      : limits(options.limits), kind(its_kind), wait(options.wait) {}

  const Limits limits;
  const StreamKind* const kind;
  // Connections of a listener that exist, handshakes included.
  std::atomic<uint32_t> connections{0};
  const WaitPolicy wait;
};

// One for a connection that we make, shared with those made just before with equal options. `kind`:
// a constant. Never null; thread-safe.
std::shared_ptr<StreamContext> ShareContext(const TransportOptions& options,
                                            const StreamKind* kind);

class StreamUpgrade;

// What handshakes need besides, and connections do not keep.
struct StreamTerms {
  // What our Hello says; zero: the process's own.
  InstanceId instance_id;
  // OK when whoever is at the other end of `fd`, just connected, may be talked to. Asked before
  // anything is read. Empty: everybody may.
  std::function<absl::Status(int fd)> admit = {};
  // Makes what can end a handshake in something better than a stream (stream_upgrade.h). Empty:
  // nothing is offered, and offers are declined.
  std::function<std::unique_ptr<StreamUpgrade>()> make_upgrade = {};
  // As connector: an ordinary stream is of no use.
  bool upgrade_required = false;
};

}  // namespace mi7::transport
