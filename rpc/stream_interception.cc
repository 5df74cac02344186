#include "rpc/stream_interception.h"

#include <cstddef>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "rpc/message_reader.h"
#include "rpc/stream.h"

namespace mi7 {
namespace {

using transport::IncomingMessage;
using transport::OutgoingMessage;
using transport::StreamDirection;

// One message on its way through the interceptors.
class Passage : public InterceptedMessage {
 public:
  // The first interceptor is the nearest to the caller's program at the caller's end, and the
  // nearest to the connection at the other one: what goes to the callee meets it first at both.
  absl::Status Run(const Interceptors& interceptors, absl::StatusCode malformed) {
    const bool forward = direction_ == StreamDirection::kToCallee;
    for (size_t i = 0; i < interceptors.size() && status_.ok(); ++i) {
      Interceptor& interceptor = *interceptors[forward ? i : interceptors.size() - 1 - i];
      try {
        interceptor.OnMessage(*this);
      } catch (...) {
        Fail(StatusOfException(malformed, absl::StrCat("interceptor of ", method().name)));
      }
    }
    return status_;
  }

  // --- InterceptedMessage ---
  InterceptedCall::Side side() const override {
    return (direction_ == StreamDirection::kToCallee) == outgoing_ ? InterceptedCall::Side::kClient
                                                                   : InterceptedCall::Side::kServer;
  }
  bool outgoing() const override { return outgoing_; }
  const MethodInfo& method() const override { return stream_.method(); }
  void Fail(absl::Status status) override {
    MI7_CHECK(!status.ok(), "InterceptedMessage::Fail is given a failure");
    status_ = std::move(status);
  }

 protected:
  Passage(const Stream& stream, bool outgoing)
      : stream_(stream),
        outgoing_(outgoing),
        direction_(outgoing ? stream.outgoing() : Opposite(stream.outgoing())) {}
  ~Passage() = default;

  const Stream& stream_;

 private:
  const bool outgoing_;
  const StreamDirection direction_;
  absl::Status status_;
};

class OutgoingPassage final : public Passage {
 public:
  OutgoingPassage(const Stream& stream, OutgoingMessage& message)
      : Passage(stream, true), message_(message) {}

 private:
  capnp::AnyPointer::Reader Root() override { return EditRoot().asReader(); }
  capnp::AnyPointer::Builder EditRoot() override { return message_->getRoot<capnp::AnyPointer>(); }

  OutgoingMessage& message_;
};

class IncomingPassage final : public Passage {
 public:
  IncomingPassage(const Stream& stream, const IncomingMessage& message)
      : Passage(stream, false), message_(message) {}

  // The copy, if an interceptor asked for one. No reader of the message is left then.
  OutgoingMessage TakeChanged() {
    reader_.reset();
    return std::move(changed_);
  }

 private:
  capnp::AnyPointer::Reader Root() override {
    if (changed_) return changed_->getRoot<capnp::AnyPointer>().asReader();
    if (!reader_) reader_.emplace(message_, stream_.limits());
    return reader_->getRoot<capnp::AnyPointer>();
  }
  capnp::AnyPointer::Builder EditRoot() override {
    if (!changed_) {
      OutgoingMessage copy = transport::NewHeapMessage(0);
      copy->getRoot<capnp::AnyPointer>().set(Root());
      copy->header = message_.header();
      changed_ = std::move(copy);
    }
    return changed_->getRoot<capnp::AnyPointer>();
  }

  const IncomingMessage& message_;
  std::optional<BodyReader> reader_;
  OutgoingMessage changed_;
};

}  // namespace

absl::Status InterceptOutgoing(const Interceptors& interceptors, const Stream& stream,
                               OutgoingMessage& message) {
  return OutgoingPassage(stream, message).Run(interceptors, absl::StatusCode::kInternal);
}

absl::Status InterceptIncoming(const Interceptors& interceptors, const Stream& stream,
                               IncomingMessage& message) {
  IncomingPassage passage(stream, message);
  const bool at_server = stream.outgoing() == StreamDirection::kToCaller;
  absl::Status status = passage.Run(
      interceptors, at_server ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kInternal);
  if (!status.ok()) return status;
  if (OutgoingMessage changed = passage.TakeChanged()) {
    if (status = transport::SealMessage(*changed, stream.limits()); !status.ok()) return status;
    message = transport::MakeIncoming(std::move(changed));
  }
  return absl::OkStatus();
}

}  // namespace mi7
