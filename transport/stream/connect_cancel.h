#pragma once

// ConnectCancel: how an attempt to connect hears that nobody wants it any more.

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <utility>

#include "transport/event_loop.h"

namespace mi7::transport {

// Loop thread only; the request to stop may come on any thread.
class ConnectCancel {
 public:
  // From now on, once `token` is asked to stop, `attempt->Cancel()` runs on `loop`, if the attempt
  // still lives then.
  template <typename Attempt>
  void Listen(const std::stop_token& token, EventLoop* loop, std::weak_ptr<Attempt> attempt) {
    if (!token.stop_possible()) return;
    callback_.emplace(token, [loop, attempt = std::move(attempt)] {
      loop->Post([attempt] {
        if (const std::shared_ptr<Attempt> alive = attempt.lock()) alive->Cancel();
      });
    });
  }
  void StopListening() { callback_.reset(); }

 private:
  std::optional<std::stop_callback<std::function<void()>>> callback_;
};

}  // namespace mi7::transport
