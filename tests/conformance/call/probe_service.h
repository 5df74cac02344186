#pragma once

// The services of probe.capnp, as tests need them.

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "tests/conformance/call/probe.mi7.h"

namespace mi7::conformance {

// How long a test waits for what must happen. Long, because test machines are slow; never slept.
inline constexpr absl::Duration kSoon = absl::Seconds(30);

inline bool Happens(absl::Notification& event) {
  return event.WaitForNotificationWithTimeout(kSoon);
}

// Counts down what callbacks do with a test's own variables, from 1 up. There is no going on
// without them: when they do not come within 2 minutes, the program ends rather than waits for
// ever.
class Countdown {
 public:
  explicit Countdown(int count) : left_(count) {}
  void DecrementCount();
  void Wait();

 private:
  absl::Mutex mutex_;
  int left_ ABSL_GUARDED_BY(mutex_);
};

using EchoHandler =
    std::function<Reply(ServerContext&, Probe::EchoParams::Reader, Probe::EchoResults::Builder)>;
using EchoResult = absl::StatusOr<Response<Probe::EchoResults>>;

// Copies text and data.
Reply Echo(ServerContext& context, Probe::EchoParams::Reader params,
           Probe::EchoResults::Builder results);

using AgainHandler =
    std::function<Reply(ServerContext&, Probe::AgainParams::Reader, Probe::AgainResults::Builder)>;

// Says which attempt it is.
Reply Again(ServerContext& context, Probe::AgainParams::Reader params,
            Probe::AgainResults::Builder results);

using OnceHandler =
    std::function<Reply(ServerContext&, Probe::OnceParams::Reader, Probe::OnceResults::Builder)>;

// Answers echo, again and once with a handler of the test, and holds calls of hold until the test
// answers them.
class ProbeImpl final : public ProbeService {
 public:
  struct Held {
    uint32_t number;
    ServerContext* context;  // until `call` is answered
    Probe::HoldResults::Builder results;
    DeferredCall call;

    // With the number it was called with. Nothing when no call came.
    void Answer() {
      if (context == nullptr) return;
      results.setNumber(number);
      call.Finish(absl::OkStatus());
    }
  };

  Reply Echo(ServerContext& context, Probe::EchoParams::Reader params,
             Probe::EchoResults::Builder results) override {
    return on_echo(context, params, results);
  }
  Reply Hold(ServerContext& context, Probe::HoldParams::Reader params,
             Probe::HoldResults::Builder results) override;
  Reply Remaining(ServerContext& context, Probe::RemainingParams::Reader params,
                  Probe::RemainingResults::Builder results) override;
  Reply Again(ServerContext& context, Probe::AgainParams::Reader params,
              Probe::AgainResults::Builder results) override {
    return on_again(context, params, results);
  }
  Reply Once(ServerContext& context, Probe::OnceParams::Reader params,
             Probe::OnceResults::Builder results) override {
    return on_once(context, params, results);
  }
  Reply Name(ServerContext&, Named::NameParams::Reader,
             Named::NameResults::Builder results) override {
    results.setName("probe");
    return absl::OkStatus();
  }

  Reply Health(ServerContext&, Probe::HealthParams::Reader,
               Probe::HealthResults::Builder results) override;

  // Waits for the oldest held call and takes it; number is ~0u when none came.
  Held TakeHeld();
  // Waits until `count` calls are held.
  bool AwaitHeld(size_t count);

  // Set before the server starts.
  EchoHandler on_echo = conformance::Echo;
  AgainHandler on_again = conformance::Again;
  OnceHandler on_once;

 private:
  absl::Mutex mutex_;
  std::vector<Held> held_ ABSL_GUARDED_BY(mutex_);
};

class CounterImpl : public CounterService {
 public:
  Reply Next(ServerContext&, Counter::NextParams::Reader,
             Counter::NextResults::Builder results) override {
    results.setValue(++value_);
    return absl::OkStatus();
  }
  Reply Name(ServerContext&, Named::NameParams::Reader,
             Named::NameResults::Builder results) override {
    results.setName("counter");
    return absl::OkStatus();
  }

 private:
  std::atomic<uint64_t> value_{0};
};

}  // namespace mi7::conformance
