#pragma once

// FaultScript: what goes wrong on the connections of a channel or a server, as a list of rules. For
// tests of how a program takes it.
//
//   auto faults = std::make_shared<mi7::FaultScript>();
//   options.channel.decorator = faults;              // ChannelOptions or ServerOptions, or both
//
//   faults->Add({.frames = mi7::FaultFrames::kCalls, .action = mi7::FaultAction::kDrop, .first =
//   3}); faults->Add({.action = mi7::FaultAction::kDelay, .count = mi7::FaultRule::kAll,
//                .delay = absl::Milliseconds(20)});
//   faults->Refuse(2);                               // the next two connections are not made

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "transport/connection_decorator.h"
#include "transport/fault/scripted_connection.h"

namespace mi7 {

// Which frames a rule is about.
enum class FaultFrames : uint8_t {
  kAny,
  kCalls,           // requests, those that open streams too
  kReturns,         // the ends of calls, with results or without
  kCancels,         //
  kStreamMessages,  // both ways
  kPings,           // and the answers to them
};

// Seen from the end that has the script.
enum class FaultWay : uint8_t { kBoth, kSent, kReceived };

enum class FaultAction : uint8_t {
  kDrop,   // the frame vanishes, and nobody is told: a call waits for its deadline
  kDelay,  // it is late, and with it what is behind it
  kLose,   // it vanishes, and the connection with it
};

// A value type.
struct FaultRule {
  static constexpr uint64_t kAll = std::numeric_limits<uint64_t>::max();

  FaultFrames frames = FaultFrames::kAny;
  FaultWay way = FaultWay::kBoth;
  FaultAction action = FaultAction::kDrop;
  // From the `first`-th such frame on that is seen after the rule was added, `count` of them.
  uint64_t first = 1;
  uint64_t count = 1;
  absl::Duration delay = absl::ZeroDuration();  // kDelay
};

// Thread-safe. Held by shared_ptr; one may serve several channels and servers, whose frames it
// counts together.
class FaultScript final : public transport::ConnectionDecorator,
                          public transport::fault::Script,
                          public std::enable_shared_from_this<FaultScript> {
 public:
  // Of several rules that apply to a frame the first one added does; all of them count it.
  void Add(const FaultRule& rule);
  // The next `attempts` connections, further ones, fail with UNAVAILABLE, or are closed at once by
  // a server. FaultRule::kAll: from now on.
  void Refuse(uint64_t attempts);
  // From now on nothing goes wrong. Frames that are late stay so.
  void Clear();
  // Frames that a rule was applied to, and connections refused.
  uint64_t hits() const;

  absl::StatusOr<std::shared_ptr<transport::Connection>> Decorate(
      std::shared_ptr<transport::Connection> inner, transport::EventLoop* loop) override;
  transport::fault::Fate FateOf(transport::fault::Way way,
                                const transport::FrameHeader& header) override;

 private:
  struct Rule {
    FaultRule rule;
    uint64_t seen = 0;
  };
  mutable Mutex mutex_;
  std::vector<Rule> rules_ ABSL_GUARDED_BY(mutex_);
  uint64_t refuse_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t hits_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace mi7
