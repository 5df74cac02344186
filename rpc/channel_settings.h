#pragma once

// ChannelSettings: what a channel keeps of its options, together with other channels. A process may
// have ten thousand channels, most of which were made with the same options.

#include <memory>

#include "absl/time/time.h"
#include "rpc/backoff.h"
#include "rpc/interceptor.h"
#include "rpc/retry_policy.h"
#include "rpc/session.h"
#include "transport/connection_decorator.h"
#include "transport/local_options.h"
#include "transport/wait_policy.h"

namespace mi7 {

struct ChannelOptions;

// Constant once made.
struct ChannelSettings {
  SessionConfig session;
  transport::WaitPolicy wait;
  const transport::EventLoop* loop;  // that of session.liveness, only to be compared
  Keepalive keepalive;
  absl::Duration idle_timeout;
  absl::Duration connect_timeout;
  absl::Duration default_timeout;
  RetryOptions retry;
  BackoffOptions backoff;
  std::shared_ptr<const transport::LocalOptions> local;
  Interceptors interceptors;
  std::shared_ptr<transport::ConnectionDecorator> decorator;
};

// `options`, whose event loop is set, shared with the channels made just before with equal ones.
// Never null; thread-safe.
std::shared_ptr<const ChannelSettings> ShareSettings(const ChannelOptions& options);

}  // namespace mi7
