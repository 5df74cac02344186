#pragma once

// A connection whose messages have the fate that a script gives them, one by one, in both
// directions. What connection.h promises still holds, as far as the script lets messages through:
// they stay in order, and one that is late delays those behind it. For tests.

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "transport/connection.h"
#include "transport/event_loop.h"
#include "transport/frame.h"

namespace mi7::transport::fault {

// Seen from the end that is decorated.
enum class Way : uint8_t { kSent, kReceived };

// What becomes of a message.
struct Fate {
  enum class Kind : uint8_t {
    kPass,
    kDrop,  // it vanishes; whoever sent it believes that it went
    kLose,  // it vanishes, and the connection is lost
  };
  Kind kind = Kind::kPass;
  // Before that happens.
  absl::Duration delay = absl::ZeroDuration();
};

// Thread-safe.
class Script {
 public:
  virtual ~Script() = default;
  // Asked once for each message, in their order. Called under a lock: it calls nobody.
  virtual Fate FateOf(Way way, const FrameHeader& header) = 0;
};

// `inner` must not have been started. `loop` runs what is late, and outlives its OnClosed. Late
// messages are kept without a bound.
std::shared_ptr<Connection> Scripted(std::shared_ptr<Connection> inner, EventLoop* loop,
                                     std::shared_ptr<Script> script);

}  // namespace mi7::transport::fault
