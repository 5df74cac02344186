#pragma once

// What every transport's Connection must keep (transport/connection.h), as one suite of tests that
// is run on each transport. A transport's test file instantiates ConnectionConformance with how to
// reach it; the tests are in connection_*_conformance.cc.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <capnp/any.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "transport/connection.h"
#include "transport/event_loop.h"
#include "transport/transports.h"

namespace mi7::transport::conformance {

// How to reach one transport.
struct TransportCase {
  std::string name;      // of the test
  std::string endpoint;  // to listen on; the listener says where to connect
  std::function<absl::StatusOr<std::unique_ptr<Listener>>(
      const Endpoint&, const std::vector<EventLoop*>&, const TransportOptions&, AcceptCallback)>
      listen;
  std::function<void(const Endpoint&, EventLoop*, const TransportOptions&, Deadline,
                     ConnectCallback)>
      connect;
  WaitPolicy wait = WaitPolicy::kAdaptive;
  // Messages are held back before the transport sees them, so that a refused Send does not mean
  // that the system's buffers are full.
  bool late = false;
};
inline void PrintTo(const TransportCase& transport, std::ostream* out) { *out << transport.name; }

// Everything that is waited for in these tests happens long before.
inline Deadline TestDeadline() { return Deadline::After(absl::Seconds(60)); }

// A Receiver that checks the rules of callbacks while it records them: none overlaps another,
// and OnClosed is the last. Thread-safe.
class RecordingReceiver : public Receiver {
 public:
  using Handler = std::function<void(IncomingMessage)>;
  // Without a handler messages are kept for messages() and TakeMessages().
  explicit RecordingReceiver(Handler handler = nullptr) : handler_(std::move(handler)) {}
  ~RecordingReceiver() override;

  void OnMessage(IncomingMessage&& message) override;
  void OnRejected(const FrameHeader& header, const absl::Status& why) override;
  void OnWritable() override;
  void OnUnsent(const FrameHeader& header, const absl::Status& why) override;
  void OnClosed(const absl::Status& why) override;

  // Extra work inside OnWritable and OnClosed; set before Start.
  std::function<void()> on_writable;
  std::function<void()> on_closed;

  // False when it did not happen before TestDeadline().
  [[nodiscard]] bool WaitForMessages(size_t count);
  [[nodiscard]] bool WaitForWritable(size_t count);
  [[nodiscard]] bool WaitForClosed();

  size_t message_count();
  size_t writable_count();
  bool closed();
  absl::Status closed_why();
  std::vector<uint32_t> unsent();  // call ids
  std::vector<IncomingMessage> TakeMessages();

 private:
  class Callback;
  bool WaitFor(const std::function<bool()>& happened);

  const Handler handler_;
  std::atomic<bool> in_callback_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<IncomingMessage> messages_;
  size_t message_count_ = 0;
  size_t writable_count_ = 0;
  size_t closed_count_ = 0;
  absl::Status closed_why_;
  std::vector<uint32_t> unsent_;
};

// An event that one thread waits for.
class Event {
 public:
  void Set() { completion_.Complete(); }
  // False when it did not happen before TestDeadline().
  [[nodiscard]] bool Wait() {
    return completion_.Sleep(TestDeadline()) == Completion::Woken::kDone;
  }

 private:
  Completion completion_;
};

// Fills a message: header of a call with `call_id`, body: Data of `bytes` bytes that depend on
// both.
void FillCall(MessageBody& message, uint32_t call_id, size_t bytes);
// Reserve and FillCall; CHECKs that Reserve succeeded.
OutgoingMessage NewCall(Connection& connection, uint32_t call_id, size_t bytes);
absl::Status SendCall(Connection& connection, uint32_t call_id, size_t bytes);
// Whether `message` is what FillCall built.
testing::AssertionResult IsCall(const IncomingMessage& message, uint32_t call_id, size_t bytes);
// The Data in a message's root.
std::string BodyOf(const IncomingMessage& message);
// An answer with the same call id and body.
absl::Status SendEcho(Connection& connection, const IncomingMessage& request);

// The client's half of calls: who waits for which reply. Many threads call through one connection.
class Caller : public RecordingReceiver {
 public:
  Caller() : RecordingReceiver([this](IncomingMessage reply) { Answer(std::move(reply)); }) {
    on_closed = [this] { FailAll(); };
  }

  struct Call {
    explicit Call(uint32_t id) : call_id(id) {}
    const uint32_t call_id;
    Completion completion;
    IncomingMessage reply;  // empty when the connection closed before it came
  };
  // Expects a reply to `call`, which must live until it came or Forget was called.
  void Expect(Call& call);
  void Forget(Call& call);
  // A blocking call: sends Data of `bytes` bytes, awaits the reply, and checks that it echoes.
  testing::AssertionResult Echo(Connection& connection, uint32_t call_id, size_t bytes,
                                Deadline deadline = Deadline::Infinite());

 private:
  void Answer(IncomingMessage reply);
  void FailAll();

  std::mutex calls_mutex_;
  std::vector<Call*> calls_;
};

// Two event loops, a listener, and the two ends of one connection, not started yet.
class ConnectionConformance : public testing::TestWithParam<TransportCase> {
 protected:
  void TearDown() override;

  // Listens and connects; FAILs the test when that fails.
  void Connect(const Limits& server_limits = {}, const Limits& client_limits = {});
  // Connect, and start both ends with `client_` and `server_`.
  void ConnectAndStart(RecordingReceiver::Handler server_handler = nullptr,
                       RecordingReceiver::Handler client_handler = nullptr,
                       const Limits& limits = {});
  // Connect, and start the server's end with one that echoes every message.
  void ConnectToEcho(const Limits& limits = {});
  // Starts the client's end with a Caller.
  std::shared_ptr<Caller> StartCaller();
  // Closes both ends and waits for the last callback of each that was started.
  void CloseBoth();

  absl::Status Listen(const Limits& limits);
  absl::StatusOr<std::shared_ptr<Connection>> ConnectTo(const Endpoint& endpoint,
                                                        const Limits& limits,
                                                        Deadline deadline = TestDeadline());
  // The server's end of the connection that was made last.
  std::shared_ptr<Connection> WaitForAccepted();

  std::unique_ptr<EventLoop> server_loop_;
  std::unique_ptr<EventLoop> client_loop_;
  std::unique_ptr<Listener> listener_;
  std::shared_ptr<Connection> client_connection_;
  std::shared_ptr<Connection> server_connection_;
  std::shared_ptr<RecordingReceiver> client_;
  std::shared_ptr<RecordingReceiver> server_;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<Connection>> accepted_;
};

}  // namespace mi7::transport::conformance
