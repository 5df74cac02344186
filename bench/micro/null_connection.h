#pragma once

// A connection for micro-benchmarks of what is above the seam: it carries nothing anywhere, and
// remembers the header of what was sent last.

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "base/limits.h"
#include "transport/connection.h"
#include "transport/message.h"

namespace mi7::bench {

// One thread.
class NullConnection final : public transport::Connection {
 public:
  // Of the message that was sent last.
  const transport::FrameHeader& last_sent() const { return last_sent_; }
  // Hands the receiver a message as if it had arrived.
  void Deliver(transport::IncomingMessage message) { receiver_->OnMessage(std::move(message)); }
  // The end of the connection, after which nobody owns anybody.
  void End() {
    const std::shared_ptr<transport::Receiver> receiver = std::move(receiver_);
    if (receiver != nullptr) receiver->OnClosed(absl::OkStatus());
  }

  void Start(std::shared_ptr<transport::Receiver> receiver) override {
    receiver_ = std::move(receiver);
  }
  absl::StatusOr<transport::OutgoingMessage> Reserve(size_t bytes) override {
    return transport::NewHeapMessage(bytes);
  }
  absl::Status Send(transport::OutgoingMessage&& message) override {
    const transport::OutgoingMessage sent = std::move(message);
    last_sent_ = sent->header;
    return absl::OkStatus();
  }
  bool Withdraw(uint32_t) override { return false; }
  bool HasRoom() override { return true; }
  void RequestWritable() override {}
  void Close(absl::Status) override {}
  bool Await(transport::Completion&, Deadline) override { return false; }
  void SetBackground(bool) override {}
  bool InCallback() const override { return false; }
  transport::ConnectionInfo info() const override {
    return {.transport = "null",
            .peer = "null",
            .local = "null",
            .negotiated = {.message_bytes_max = limits_.message_bytes_max,
                           .calls_in_flight_max = limits_.calls_in_flight_max}};
  }

 private:
  const Limits limits_;
  std::shared_ptr<transport::Receiver> receiver_;
  transport::FrameHeader last_sent_ = {};
};

}  // namespace mi7::bench
