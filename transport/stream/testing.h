#pragma once

// For tests: receivers that record or echo, and a server and client in one process.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "transport/completion.h"
#include "transport/connection.h"
#include "transport/event_loop.h"
#include "transport/local/testing.h"
#include "transport/message.h"
#include "transport/tcp/tcp_connector.h"
#include "transport/tcp/tcp_listener.h"
#include "transport/transports.h"
#include "transport/unix/unix_connector.h"
#include "transport/unix/unix_listener.h"

namespace mi7::transport::testing {

inline constexpr absl::Duration kPatience = absl::Seconds(40);

// A message whose body is a list of `bytes` bytes, each `fill`.
inline OutgoingMessage MakeMessage(FrameType type, uint32_t call_id, size_t bytes,
                                   uint8_t fill = 7) {
  OutgoingMessage message = NewHeapMessage(bytes + 16);
  message->header.type = type;
  message->header.call_id = call_id;
  if (type == FrameType::kCall) message->header.target = TargetKind::kService;
  auto data =
      message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(static_cast<capnp::uint>(bytes));
  std::fill(data.begin(), data.end(), fill);
  return message;
}

// The bytes that MakeMessage put in.
inline std::string BodyOf(const IncomingMessage& message) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = UINT64_MAX / 16;
  const auto segments = message.segments();
  capnp::SegmentArrayMessageReader reader({segments.data(), segments.size()}, options);
  const auto data = reader.getRoot<capnp::AnyPointer>().getAs<capnp::Data>();
  return std::string(reinterpret_cast<const char*>(data.begin()), data.size());
}

// Records everything; each test waits for what it expects.
class Recorder : public Receiver {
 public:
  void OnMessage(IncomingMessage&& message) override {
    std::function<void(IncomingMessage)> hook;
    {
      absl::MutexLock lock(&mutex_);
      ++messages_;
      hook = hook_;
      if (!hook && keep_) kept_.push_back(std::move(message));
    }
    if (hook) hook(std::move(message));
  }
  void OnRejected(const FrameHeader& header, const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    rejected_.emplace_back(header, why);
  }
  void OnWritable() override {
    absl::MutexLock lock(&mutex_);
    ++writable_;
  }
  void OnUnsent(const FrameHeader& header, const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    unsent_.push_back(header.call_id);
    unsent_why_.push_back(why);
  }
  void OnClosed(const absl::Status& why) override {
    absl::MutexLock lock(&mutex_);
    MI7_CHECK(!closed_, "OnClosed comes once");
    closed_ = true;
    why_ = why;
  }

  // Called for every message, without the lock.
  void set_hook(std::function<void(IncomingMessage)> hook) {
    absl::MutexLock lock(&mutex_);
    hook_ = std::move(hook);
  }
  void set_keep(bool keep) {
    absl::MutexLock lock(&mutex_);
    keep_ = keep;
  }

  bool WaitMessages(int count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, count]()
                           ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return messages_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
  }
  bool WaitRejected(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return rejected_.size() >= count;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
  }
  bool WaitUnsent(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return unsent_.size() >= count;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
  }
  bool WaitWritable() {
    absl::MutexLock lock(&mutex_);
    const auto there = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return writable_ > 0; };
    return mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience);
  }
  // The status that OnClosed got; DEADLINE_EXCEEDED "not closed" when it did not come.
  absl::Status WaitClosed() {
    absl::MutexLock lock(&mutex_);
    if (!mutex_.AwaitWithTimeout(absl::Condition(&closed_), kPatience)) {
      return absl::DeadlineExceededError("not closed");
    }
    return why_;
  }
  bool closed() const {
    absl::MutexLock lock(&mutex_);
    return closed_;
  }
  int messages() const {
    absl::MutexLock lock(&mutex_);
    return messages_;
  }
  std::vector<uint32_t> unsent() const {
    absl::MutexLock lock(&mutex_);
    return unsent_;
  }
  std::vector<absl::Status> unsent_why() const {
    absl::MutexLock lock(&mutex_);
    return unsent_why_;
  }
  std::vector<std::pair<FrameHeader, absl::Status>> rejected() const {
    absl::MutexLock lock(&mutex_);
    return rejected_;
  }
  std::vector<IncomingMessage> TakeKept() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(kept_, {});
  }

 private:
  mutable absl::Mutex mutex_;
  std::function<void(IncomingMessage)> hook_ ABSL_GUARDED_BY(mutex_);
  bool keep_ ABSL_GUARDED_BY(mutex_) = false;
  int messages_ ABSL_GUARDED_BY(mutex_) = 0;
  int writable_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::pair<FrameHeader, absl::Status>> rejected_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> unsent_ ABSL_GUARDED_BY(mutex_);
  std::vector<absl::Status> unsent_why_ ABSL_GUARDED_BY(mutex_);
  std::vector<IncomingMessage> kept_ ABSL_GUARDED_BY(mutex_);
};

// Answers every call with a return of the same id and bytes.
class Echo : public Recorder {
 public:
  void Attach(std::shared_ptr<Connection> connection) {
    std::weak_ptr<Connection> weak = connection;
    set_hook([weak](IncomingMessage message) {
      auto to = weak.lock();
      if (to == nullptr || message.header().type != FrameType::kCall) return;
      const std::string body = BodyOf(message);
      OutgoingMessage answer =
          MakeMessage(FrameType::kReturn, message.header().call_id, body.size(),
                      body.empty() ? 0 : static_cast<uint8_t>(body[0]));
      static_cast<void>(to->Send(std::move(answer)));
    });
    connection->Start(shared_from_base());
  }
  void set_self(std::weak_ptr<Echo> self) { self_ = std::move(self); }

 private:
  std::shared_ptr<Receiver> shared_from_base() { return self_.lock(); }
  std::weak_ptr<Echo> self_;
};

// A new endpoint to listen on, of one of the kinds of stream sockets.
inline Endpoint NewEndpoint(Endpoint::Scheme scheme) {
  static const TemporaryDirectory directory;
  static std::atomic<int> count{0};
  const std::string text = scheme == Endpoint::Scheme::kUnix
                               ? absl::StrCat("unix:", directory / "s", count.fetch_add(1))
                               : "tcp:127.0.0.1:0";
  const auto endpoint = Endpoint::Parse(text);
  MI7_CHECK(endpoint.ok(), "an endpoint of the test");
  return *endpoint;
}

// The kinds, for tests that are run on each.
inline std::string SchemeName(const ::testing::TestParamInfo<Endpoint::Scheme>& info) {
  return info.param == Endpoint::Scheme::kUnix ? "Unix" : "Tcp";
}

inline absl::StatusOr<std::unique_ptr<Listener>> ListenAt(const Endpoint& endpoint,
                                                          const std::vector<EventLoop*>& loops,
                                                          const TransportOptions& options,
                                                          AcceptCallback on_accept) {
  return endpoint.scheme == Endpoint::Scheme::kUnix
             ? UnixListen(endpoint, loops, options, {}, std::move(on_accept))
             : TcpListen(endpoint, loops, options, std::move(on_accept));
}

inline std::unique_ptr<EventLoop> NewLoop(WaitPolicy wait = WaitPolicy::kAdaptive) {
  auto loop = EventLoop::Create({.name = "test", .wait = wait});
  MI7_CHECK(loop.ok(), "a test gets its loop");
  return *std::move(loop);
}

// Connects and waits for the result.
inline absl::StatusOr<std::shared_ptr<Connection>> ConnectTo(const Endpoint& endpoint,
                                                             EventLoop* loop,
                                                             const TransportOptions& options = {},
                                                             Deadline deadline = Deadline()) {
  absl::Mutex mutex;
  bool done = false;
  absl::StatusOr<std::shared_ptr<Connection>> result = absl::UnknownError("no result");
  const auto on_connected = [&](absl::StatusOr<std::shared_ptr<Connection>> connection) {
    absl::MutexLock lock(&mutex);
    result = std::move(connection);
    done = true;
  };
  if (endpoint.scheme == Endpoint::Scheme::kUnix) {
    UnixConnect(endpoint, loop, options, {}, deadline, on_connected);
  } else {
    TcpConnect(endpoint, loop, options, deadline, on_connected);
  }
  absl::MutexLock lock(&mutex);
  MI7_CHECK(mutex.AwaitWithTimeout(absl::Condition(&done), kPatience), "Connect ends");
  return result;
}

// A listener whose connections get a Recorder, or an Echo.
class TestServer {
 public:
  explicit TestServer(const TransportOptions& options = {}, bool echo = false, int loops = 1,
                      WaitPolicy wait = WaitPolicy::kAdaptive,
                      Endpoint::Scheme scheme = Endpoint::Scheme::kTcp) {
    std::vector<EventLoop*> raw;
    for (int i = 0; i < loops; ++i) {
      loops_.push_back(NewLoop(wait));
      raw.push_back(loops_.back().get());
    }
    auto listener = ListenAt(NewEndpoint(scheme), raw, options,
                             [this, echo](std::shared_ptr<Connection> connection) {
                               auto receiver = std::make_shared<Echo>();
                               receiver->set_self(receiver);
                               {
                                 absl::MutexLock lock(&mutex_);
                                 connections_.push_back(connection);
                                 receivers_.push_back(receiver);
                               }
                               if (echo) {
                                 receiver->Attach(connection);
                               } else {
                                 connection->Start(receiver);
                               }
                             });
    MI7_CHECK(listener.ok(), "a test can listen on loopback");
    listener_ = *std::move(listener);
  }
  ~TestServer() {
    listener_->Close();
    for (auto& connection : connections()) connection->Close(absl::OkStatus());
    for (auto& receiver : receivers()) static_cast<void>(receiver->WaitClosed());
  }

  const Endpoint& endpoint() const { return listener_->endpoint(); }
  Listener& listener() { return *listener_; }
  EventLoop& loop(size_t n) { return *loops_[n]; }
  // Waits for the n-th accepted connection.
  std::pair<std::shared_ptr<Connection>, std::shared_ptr<Recorder>> Accepted(size_t n) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, n]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return connections_.size() > n;
    };
    MI7_CHECK(mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience), "it is accepted");
    return {connections_[n], receivers_[n]};
  }
  // Waits until the n-th connection is closed, and drops it.
  void Forget(size_t n) {
    auto [connection, receiver] = Accepted(n);
    static_cast<void>(receiver->WaitClosed());
    std::weak_ptr<Connection> last = connection;
    connection.reset();
    {
      absl::MutexLock lock(&mutex_);
      connections_.erase(connections_.begin() + static_cast<std::ptrdiff_t>(n));
      receivers_.erase(receivers_.begin() + static_cast<std::ptrdiff_t>(n));
    }
    // The loop drops the last reference when OnClosed has returned.
    while (!last.expired()) std::this_thread::yield();
  }
  std::vector<std::shared_ptr<Connection>> connections() {
    absl::MutexLock lock(&mutex_);
    return connections_;
  }
  std::vector<std::shared_ptr<Echo>> receivers() {
    absl::MutexLock lock(&mutex_);
    return receivers_;
  }

 private:
  std::vector<std::unique_ptr<EventLoop>> loops_;
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::shared_ptr<Echo>> receivers_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Listener> listener_;
};

// A client's side: its own loop, a Recorder, and calls that wait.
class TestClient {
 public:
  explicit TestClient(const Endpoint& endpoint, const TransportOptions& options = {})
      : loop_(NewLoop()), receiver_(std::make_shared<Recorder>()) {
    auto connected = ConnectTo(endpoint, loop_.get(), options);
    MI7_CHECK(connected.ok(), "a test can connect");
    connection_ = *std::move(connected);
    connection_->Start(receiver_);
  }
  ~TestClient() {
    connection_->Close(absl::OkStatus());
    static_cast<void>(receiver_->WaitClosed());
  }
  Connection& connection() { return *connection_; }
  std::shared_ptr<Connection> shared() { return connection_; }
  Recorder& receiver() { return *receiver_; }
  EventLoop& loop() { return *loop_; }

 private:
  std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<Recorder> receiver_;
  std::shared_ptr<Connection> connection_;
};

}  // namespace mi7::transport::testing
