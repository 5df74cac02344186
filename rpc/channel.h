#pragma once

// Channel: a client's way to a server.
//
//   absl::StatusOr<std::shared_ptr<mi7::Channel>> channel = mi7::Channel::Create("tcp:[::1]:4711");
//   CalculatorStub calculator(*channel);
//
// A channel connects when it is first used, and again after its connection was lost, waiting
// longer after each failed attempt. Calls that were in flight when a connection is lost end with
// UNAVAILABLE and say whether they may have run (call_outcome.h). What certainly has not run is
// repeated by itself (while its request is at hand), anything else only where the schema allows it
// (docs/RETRIES.md).

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/limits.h"
#include "base/mutex.h"
#include "rpc/backoff.h"
#include "rpc/call_options.h"
#include "rpc/channel_settings.h"
#include "rpc/deadline_queue.h"
#include "rpc/interceptor.h"
#include "rpc/interface_info.h"
#include "rpc/retry_budget.h"
#include "rpc/retry_policy.h"
#include "rpc/session.h"
#include "rpc/timers.h"
#include "transport/connection_decorator.h"
#include "transport/endpoint.h"
#include "transport/event_loop.h"
#include "transport/local_options.h"
#include "transport/wait_policy.h"

namespace mi7 {

class ClientCall;

// What a channel is doing.
enum class ChannelState : uint8_t {
  kIdle,        // not connected, connects with the next call
  kConnecting,  //
  kReady,       // connected
  kBackoff,     // the last attempt failed; the next one follows after a while
  kClosed,      // Close was called
};
absl::string_view ChannelStateName(ChannelState state);

// A value type; the defaults are for production.
struct ChannelOptions {
  Limits limits = {};
  // How a thread in PendingCall::Wait waits.
  transport::WaitPolicy wait = transport::WaitPolicy::kAdaptive;
  // Bound of one connection attempt, name resolution and handshake included.
  absl::Duration connect_timeout = absl::Seconds(20);
  BackoffOptions backoff = {};
  // Of calls that have no deadline of their own and whose method has no timeout.
  absl::Duration default_timeout = absl::InfiniteDuration();
  // How calls are repeated.
  RetryOptions retry = {};
  // Peers on this machine: whom to talk to, where to meet, whether to use shared memory.
  transport::LocalOptions local = {};
  // How it finds out that the server is gone without a word.
  Keepalive keepalive = {};
  // A connection without calls for so long is closed; the next call makes another one, and does not
  // fail by that. Infinite: it is kept.
  absl::Duration idle_timeout = absl::InfiniteDuration();
  // Run around every call, the first as the outermost.
  Interceptors interceptors = {};
  // What stands between its connections and it, for tests of what goes wrong; nullptr: nothing.
  std::shared_ptr<transport::ConnectionDecorator> decorator = {};
  // Drives the channel in the background: connecting, callbacks, coroutines. Must outlive the
  // channel. nullptr: a loop that all such channels of the process share.
  transport::EventLoop* event_loop = nullptr;
};

// Thread-safe; many threads share one channel. In a forked child a channel of the parent is of no
// use, see Create.
class Channel final : public Session::Observer, public std::enable_shared_from_this<Channel> {
 public:
  // Does not connect yet. INVALID_ARGUMENT: malformed endpoint. FAILED_PRECONDITION: an event loop
  // that was made before a fork().
  //
  // A channel belongs to the process that made it. In a forked child its calls, those in flight
  // too, and Connect fail with FAILED_PRECONDITION, without a byte being sent; it is kClosed. What
  // was reserved or received over shared memory (requests under construction, responses) is not
  // even mapped there. Channels that the child creates work.
  static absl::StatusOr<std::shared_ptr<Channel>> Create(absl::string_view endpoint,
                                                         const ChannelOptions& options = {});
  ~Channel();

  // Connects if need be and waits until the channel is ready: OK, or the last attempt's failure.
  // FAILED_PRECONDITION in a callback, which runs on the event loop that has to connect.
  absl::Status Connect(Deadline deadline);

  // Ends the connection, or the attempt to make one; calls in flight fail, later ones fail with
  // FAILED_PRECONDITION.
  void Close();

  ChannelState state() const;
  // For people, one line: the endpoint, the state, the transport that carries the calls, the peer,
  // why not a better one (a mi7:// endpoint without shared memory), the last failure. A connection
  // that is made is logged with the same words, once, as LogLevel::kInfo.
  std::string Describe() const;
  // The transport in use ("shm", "unix", "tcp", "inproc"), empty when not connected.
  std::string transport() const;

  // --- For generated code and the runtime ---

  // A new call of `channel` in building state. Never fails; what is wrong is reported by its Start.
  static ClientCall* NewCall(const std::shared_ptr<Channel>& channel, const InterfaceInfo& service,
                             const MethodInfo& method, const CallOptions& options);
  ClientCall* NewCall(const InterfaceInfo& service, const MethodInfo& method,
                      const CallOptions& options) {
    return NewCall(shared_from_this(), service, method, options);
  }
  void StartCall(ClientCall* call);
  enum class Withdrawn { kBeforeSend, kAfterSend };
  // Nobody waits for `call` any more: takes it from the channel's queue or the connection's, or
  // tells the server.
  Withdrawn WithdrawCall(ClientCall* call);
  DeadlineQueue& deadlines();
  // For retries.
  std::shared_ptr<Timers> timers();
  RetryBudget& retry_budget();
  const RetryPolicy& retry_policy() const { return settings_->retry.policy; }
  size_t kept_request_bytes_max() const { return settings_->retry.kept_request_bytes_max; }
  // Of a request that is kept without being counted.
  size_t uncounted_request_bytes_max() const {
    return std::min(kept_request_bytes_max(), RetryOptions::kUncountedBytesMax);
  }
  // Counts a request that is to be kept. False: RetryOptions::kept_bytes_max does not admit it.
  bool KeepBytes(size_t bytes);
  void LetGoBytes(size_t bytes);
  const Limits& limits() const { return settings_->session.limits; }
  // How long a call of `method` may take that has no deadline of its own.
  absl::Duration TimeoutOf(const MethodInfo& method) const {
    return method.timeout_ms == 0 ? settings_->default_timeout
                                  : absl::Milliseconds(method.timeout_ms);
  }
  // Whether this process was forked from the one that made the channel, and why calls fail then.
  bool forked() const { return loop_->forked(); }
  absl::Status ForkedError() const;
  const std::string& endpoint() const { return *endpoint_; }
  // Whether the calling thread is the one that connects the channel.
  bool InLoopThread() const { return loop_->InLoopThread(); }
  // Whether the calling thread is inside a callback of its connection, of one that it has given up
  // and that is not over, or of the one to which it sends what has waited.
  bool InCallback() const;
  // How often it has given up a connection, so that calls made since go to another one. Relaxed:
  // who has made a call since then has found the other connection under the mutex, and so the
  // number.
  uint32_t moves() const { return moves_.load(std::memory_order_relaxed); }

  // --- Session::Observer ---
  void OnGoAway(Session& session) override;
  void OnSessionClosed(Session& session, const absl::Status& why) override;
  void OnDrained(Session&) override {}

 private:
  struct Private {};  // only Create has one

 public:
  Channel(Private, const transport::Endpoint& endpoint, const ChannelOptions& options);

 private:
  // What a channel needs besides its connection while there is none, or one that departs: most of
  // ten thousand channels do without. Guarded by mutex_.
  struct Recovery {
    explicit Recovery(const Channel& channel);
    // Nothing that has to be kept.
    bool idle() const { return queue.empty() && departing.empty() && waiters == 0; }

    // Calls that wait for a connection, in order; a reference each. They know their places, since
    // any of tens of thousands may be given up.
    std::list<ClientCall*> queue;
    // Those whose server accepts no further calls, but has calls of ours in flight, and those that
    // are ending.
    std::vector<std::weak_ptr<Session>> departing;
    std::weak_ptr<Session> next;  // to which the queue is being sent
    Backoff backoff;
    std::unique_ptr<transport::EventLoop::Timer> backoff_timer;  // made when first needed
    Deadline next_attempt;                                       // in kBackoff
    bool hopeless = false;  // the last attempt failed so that waiting a little mends nothing
    uint64_t attempts_ended = 0;
    // Of the attempt that runs; without a state otherwise.
    std::stop_source cancel{std::nostopstate};
    uint32_t waiters = 0;   // threads in Connect
    CondVar state_changed;  // for them
  };

  // What a channel needs whose calls are repeated; once made it stays.
  struct Retrying {
    explicit Retrying(const Channel& channel);
    RetryBudget budget;
    const std::shared_ptr<Timers> timers;
  };
  Retrying& retrying() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::shared_ptr<Session> ReadySession() const;
  std::shared_ptr<Session> SessionForCall() const;
  // Begins an attempt; the caller has set kConnecting under the lock and released it.
  void BeginConnect();
  void OnConnectDone(absl::StatusOr<std::shared_ptr<transport::Connection>> connection,
                     std::string why_not_better);
  std::string DescribeSession(Session& session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What calls are told that do not wait for the next attempt to connect, which comes in `wait`.
  absl::Status FailureWithAdvice(absl::Duration wait) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnBackoffOver();
  // It sends no further calls, but has calls in flight, perhaps.
  void LetDepartLocked(Session& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetSessionLocked(Session& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Sends the calls that waited for a connection.
  void SendQueued(const std::shared_ptr<Session>& session);
  Recovery& recovery() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NotifyStateChanged() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes out what is not needed while the channel is ready, to be destroyed without the lock.
  std::unique_ptr<Recovery> TakeIdleRecovery() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const uint64_t id_;  // no other channel of this process has or had it
  // As text: shorter than Endpoint, and parsed when it connects. Shared with the channels made just
  // before to the same one.
  const std::shared_ptr<const std::string> endpoint_;
  const std::shared_ptr<const ChannelSettings> settings_;
  transport::EventLoop* const loop_;
  std::atomic<size_t> kept_bytes_{0};  // relaxed: a count

  mutable Mutex mutex_;
  ChannelState state_ ABSL_GUARDED_BY(mutex_) = ChannelState::kIdle;
  // Written under mutex_. Small, as an idle channel is to be: it is only asked whether it is
  // another number than a while ago, when calls were made that are in flight still.
  std::atomic<uint16_t> moves_{0};
  std::shared_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);  // set in kReady
  // All made when first needed: many channels never do.
  std::shared_ptr<DeadlineQueue> deadlines_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Retrying> retrying_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Recovery> recovery_ ABSL_GUARDED_BY(mutex_);
  // Of the last connection: why it is not of a better transport; nullptr: it is of the best.
  std::unique_ptr<const std::string> why_not_better_ ABSL_GUARDED_BY(mutex_);
  absl::Status last_failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mi7
