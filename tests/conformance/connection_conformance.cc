#include "tests/conformance/connection_conformance.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include <capnp/message.h>

#include "base/check.h"

namespace mi7::transport::conformance {
namespace {

// The byte at `index` of the body of call `call_id`.
uint8_t PatternAt(uint32_t call_id, size_t index) {
  return static_cast<uint8_t>(call_id * 131 + index * 7 + (index >> 8));
}

capnp::ReaderOptions Unlimited() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = UINT64_MAX / 2;
  return options;
}

kj::ArrayPtr<const IncomingMessage::Segment> SegmentsOf(const IncomingMessage& message) {
  return {message.segments().data(), message.segments().size()};
}

}  // namespace

// Marks a callback as running, and finds overlaps and callbacks after the last.
class RecordingReceiver::Callback {
 public:
  explicit Callback(RecordingReceiver& receiver) : receiver_(receiver) {
    EXPECT_FALSE(receiver.in_callback_.exchange(true)) << "callbacks of one connection overlap";
    EXPECT_FALSE(receiver.closed()) << "a callback after OnClosed";
  }
  ~Callback() { receiver_.in_callback_ = false; }

 private:
  RecordingReceiver& receiver_;
};

RecordingReceiver::~RecordingReceiver() { EXPECT_FALSE(in_callback_.load()); }

void RecordingReceiver::OnMessage(IncomingMessage&& message) {
  Callback callback(*this);
  if (handler_) {
    handler_(std::move(message));
  }
  std::lock_guard lock(mutex_);
  if (!handler_) messages_.push_back(std::move(message));
  ++message_count_;
  changed_.notify_all();
}

void RecordingReceiver::OnRejected(const FrameHeader& header, const absl::Status& why) {
  Callback callback(*this);
  ADD_FAILURE() << "message " << header.call_id << " rejected: " << why;
}

void RecordingReceiver::OnWritable() {
  Callback callback(*this);
  if (on_writable) on_writable();
  std::lock_guard lock(mutex_);
  ++writable_count_;
  changed_.notify_all();
}

void RecordingReceiver::OnUnsent(const FrameHeader& header, const absl::Status& why) {
  Callback callback(*this);
  EXPECT_TRUE(absl::IsUnavailable(why)) << why;
  std::lock_guard lock(mutex_);
  unsent_.push_back(header.call_id);
  changed_.notify_all();
}

void RecordingReceiver::OnClosed(const absl::Status& why) {
  Callback callback(*this);
  if (on_closed) on_closed();
  std::lock_guard lock(mutex_);
  ++closed_count_;
  closed_why_ = why;
  changed_.notify_all();
}

bool RecordingReceiver::WaitFor(const std::function<bool()>& happened) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::nanoseconds(TestDeadline().remaining_ns()), happened);
}
bool RecordingReceiver::WaitForMessages(size_t count) {
  return WaitFor([&] { return message_count_ >= count; });
}
bool RecordingReceiver::WaitForWritable(size_t count) {
  return WaitFor([&] { return writable_count_ >= count; });
}
bool RecordingReceiver::WaitForClosed() {
  return WaitFor([&] { return closed_count_ != 0; });
}
size_t RecordingReceiver::message_count() {
  std::lock_guard lock(mutex_);
  return message_count_;
}
size_t RecordingReceiver::writable_count() {
  std::lock_guard lock(mutex_);
  return writable_count_;
}
bool RecordingReceiver::closed() {
  std::lock_guard lock(mutex_);
  return closed_count_ != 0;
}
absl::Status RecordingReceiver::closed_why() {
  std::lock_guard lock(mutex_);
  return closed_why_;
}
std::vector<uint32_t> RecordingReceiver::unsent() {
  std::lock_guard lock(mutex_);
  return unsent_;
}
std::vector<IncomingMessage> RecordingReceiver::TakeMessages() {
  std::lock_guard lock(mutex_);
  return std::move(messages_);
}

void FillCall(MessageBody& message, uint32_t call_id, size_t bytes) {
  message.header.type = FrameType::kCall;
  message.header.target = TargetKind::kService;
  message.header.call_id = call_id;
  capnp::Data::Builder data =
      message.getRoot<capnp::AnyPointer>().initAs<capnp::Data>(static_cast<capnp::uint>(bytes));
  for (size_t i = 0; i < bytes; ++i) data[i] = PatternAt(call_id, i);
}

OutgoingMessage NewCall(Connection& connection, uint32_t call_id, size_t bytes) {
  absl::StatusOr<OutgoingMessage> message = connection.Reserve(bytes);
  MI7_CHECK(message.ok(), "Reserve succeeds in this test");
  FillCall(**message, call_id, bytes);
  return *std::move(message);
}

absl::Status SendCall(Connection& connection, uint32_t call_id, size_t bytes) {
  absl::StatusOr<OutgoingMessage> message = connection.Reserve(bytes);
  if (!message.ok()) return message.status();
  FillCall(**message, call_id, bytes);
  return connection.Send(*std::move(message));
}

std::string BodyOf(const IncomingMessage& message) {
  capnp::SegmentArrayMessageReader reader(SegmentsOf(message), Unlimited());
  const capnp::Data::Reader data = reader.getRoot<capnp::AnyPointer>().getAs<capnp::Data>();
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}

testing::AssertionResult IsCall(const IncomingMessage& message, uint32_t call_id, size_t bytes) {
  if (message.header().call_id != call_id) {
    return testing::AssertionFailure()
           << "message " << message.header().call_id << " where " << call_id << " was expected";
  }
  if (!message.has_body()) return testing::AssertionFailure() << call_id << " has no body";
  capnp::SegmentArrayMessageReader reader(SegmentsOf(message), Unlimited());
  const capnp::Data::Reader data = reader.getRoot<capnp::AnyPointer>().getAs<capnp::Data>();
  if (data.size() != bytes) {
    return testing::AssertionFailure()
           << "message " << call_id << " has " << data.size() << " bytes, expected " << bytes;
  }
  for (size_t i = 0; i < bytes; ++i) {
    if (data[i] != PatternAt(call_id, i)) {
      return testing::AssertionFailure() << "message " << call_id << " differs at byte " << i;
    }
  }
  return testing::AssertionSuccess();
}

absl::Status SendEcho(Connection& connection, const IncomingMessage& request) {
  capnp::SegmentArrayMessageReader reader(SegmentsOf(request), Unlimited());
  const capnp::Data::Reader data = reader.getRoot<capnp::AnyPointer>().getAs<capnp::Data>();
  absl::StatusOr<OutgoingMessage> reply = connection.Reserve(data.size());
  if (!reply.ok()) return reply.status();
  (*reply)->header.type = FrameType::kReturn;
  (*reply)->header.call_id = request.header().call_id;
  (*reply)->getRoot<capnp::AnyPointer>().setAs<capnp::Data>(data);
  return connection.Send(*std::move(reply));
}

absl::Status ConnectionConformance::Listen(const Limits& limits) {
  for (std::unique_ptr<EventLoop>* loop : {&server_loop_, &client_loop_}) {
    if (*loop != nullptr) continue;
    EventLoop::Options options;
    options.name = loop == &server_loop_ ? "server" : "client";
    absl::StatusOr<std::unique_ptr<EventLoop>> created = EventLoop::Create(options);
    if (!created.ok()) return created.status();
    *loop = *std::move(created);
  }
  absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(GetParam().endpoint);
  if (!endpoint.ok()) return endpoint.status();
  TransportOptions options;
  options.limits = limits;
  options.wait = GetParam().wait;
  absl::StatusOr<std::unique_ptr<Listener>> listener = GetParam().listen(
      *endpoint, {server_loop_.get()}, options, [this](std::shared_ptr<Connection> connection) {
        std::lock_guard lock(mutex_);
        accepted_.push_back(std::move(connection));
        changed_.notify_all();
      });
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Connection>> ConnectionConformance::ConnectTo(
    const Endpoint& endpoint, const Limits& limits, Deadline deadline) {
  TransportOptions options;
  options.limits = limits;
  options.wait = GetParam().wait;
  struct Connected {
    Event event;
    absl::StatusOr<std::shared_ptr<Connection>> connection;
  };
  auto connected = std::make_shared<Connected>();
  GetParam().connect(endpoint, client_loop_.get(), options, deadline,
                     [this, connected](absl::StatusOr<std::shared_ptr<Connection>> connection) {
                       EXPECT_TRUE(client_loop_->InLoopThread());
                       connected->connection = std::move(connection);
                       connected->event.Set();
                     });
  if (!connected->event.Wait()) return absl::InternalError("Connect never called back");
  return std::move(connected->connection);
}

std::shared_ptr<Connection> ConnectionConformance::WaitForAccepted() {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, std::chrono::nanoseconds(TestDeadline().remaining_ns()),
                         [this] { return !accepted_.empty(); })) {
    return nullptr;
  }
  std::shared_ptr<Connection> connection = std::move(accepted_.back());
  accepted_.pop_back();
  return connection;
}

void ConnectionConformance::Connect(const Limits& server_limits, const Limits& client_limits) {
  const absl::Status listening = Listen(server_limits);
  ASSERT_TRUE(listening.ok()) << listening;
  absl::StatusOr<std::shared_ptr<Connection>> connection =
      ConnectTo(listener_->endpoint(), client_limits);
  ASSERT_TRUE(connection.ok()) << connection.status();
  client_connection_ = *std::move(connection);
  server_connection_ = WaitForAccepted();
  ASSERT_NE(server_connection_, nullptr);
}

void ConnectionConformance::ConnectAndStart(RecordingReceiver::Handler server_handler,
                                            RecordingReceiver::Handler client_handler,
                                            const Limits& limits) {
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  server_ = std::make_shared<RecordingReceiver>(std::move(server_handler));
  client_ = std::make_shared<RecordingReceiver>(std::move(client_handler));
  server_connection_->Start(server_);
  client_connection_->Start(client_);
}

void ConnectionConformance::ConnectToEcho(const Limits& limits) {
  ASSERT_NO_FATAL_FAILURE(Connect(limits, limits));
  server_ = std::make_shared<RecordingReceiver>(
      [connection = server_connection_.get()](IncomingMessage request) {
        const absl::Status sent = SendEcho(*connection, request);
        EXPECT_TRUE(sent.ok() || absl::IsUnavailable(sent)) << sent;
      });
  server_connection_->Start(server_);
}

std::shared_ptr<Caller> ConnectionConformance::StartCaller() {
  auto caller = std::make_shared<Caller>();
  client_ = caller;
  client_connection_->Start(caller);
  return caller;
}

void ConnectionConformance::CloseBoth() {
  if (client_connection_ != nullptr) client_connection_->Close(absl::OkStatus());
  if (server_connection_ != nullptr) server_connection_->Close(absl::OkStatus());
  for (const auto& receiver : {client_, server_}) {
    if (receiver != nullptr) {
      EXPECT_TRUE(receiver->WaitForClosed());
    }
  }
}

void ConnectionConformance::TearDown() {
  CloseBoth();
  listener_.reset();
  {
    std::lock_guard lock(mutex_);
    accepted_.clear();
  }
  client_connection_.reset();
  server_connection_.reset();
  client_loop_.reset();
  server_loop_.reset();
  client_.reset();
  server_.reset();
}

void Caller::Expect(Call& call) {
  std::lock_guard lock(calls_mutex_);
  calls_.push_back(&call);
}

void Caller::Forget(Call& call) {
  std::lock_guard lock(calls_mutex_);
  std::erase(calls_, &call);
}

void Caller::Answer(IncomingMessage reply) {
  std::lock_guard lock(calls_mutex_);
  const auto found = std::find_if(calls_.begin(), calls_.end(), [&](const Call* call) {
    return call->call_id == reply.header().call_id;
  });
  if (found == calls_.end()) return;  // forgotten
  Call& call = **found;
  calls_.erase(found);
  call.reply = std::move(reply);
  call.completion.Complete();
}

void Caller::FailAll() {
  std::lock_guard lock(calls_mutex_);
  for (Call* const call : std::exchange(calls_, {})) call->completion.Complete();
}

testing::AssertionResult Caller::Echo(Connection& connection, uint32_t call_id, size_t bytes,
                                      Deadline deadline) {
  Call call(call_id);
  Expect(call);
  const absl::Status sent = SendCall(connection, call_id, bytes);
  if (!sent.ok()) {
    Forget(call);
    return testing::AssertionFailure() << "Send: " << sent;
  }
  if (!connection.Await(call.completion, deadline)) {
    Forget(call);
    return testing::AssertionFailure() << "no reply to " << call_id << " before the deadline";
  }
  return IsCall(call.reply, call_id, bytes);
}

}  // namespace mi7::transport::conformance
