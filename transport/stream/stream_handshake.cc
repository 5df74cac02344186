#include "transport/stream/stream_handshake.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "transport/stream/socket.h"
#include "transport/stream/stream_connection.h"

namespace mi7::transport {
namespace {

Limits HelloLimits(Limits limits) {
  limits.message_bytes_max = kHelloBytesMax;
  limits.extra_bytes_max = kHelloBytesMax / 2;
  limits.segments_max = 1;
  return limits;
}

// Names this process where no listener has a name of its own.
const InstanceId& ProcessId() {
  static const InstanceId id = InstanceId::Random();
  return id;
}

OutgoingMessage OurHello(const StreamContext& context, const StreamTerms& terms, bool shared_memory,
                         absl::string_view local_refusal = {}) {
  const InstanceId& id = terms.instance_id ? terms.instance_id : ProcessId();
  return MakeHello(context.limits, id.bytes, shared_memory ? kFeatureSharedMemory : 0,
                   local_refusal);
}

}  // namespace

StreamHandshake::StreamHandshake(EventLoop* loop, UniqueFd socket,
                                 std::shared_ptr<StreamContext> context,
                                 std::shared_ptr<const StreamTerms> terms, bool accepted, Done done)
    : loop_(loop),
      socket_(std::move(socket)),
      context_(std::move(context)),
      terms_(std::move(terms)),
      accepted_(accepted),
      done_(std::move(done)),
      limits_(HelloLimits(context_->limits)),
      assembler_(&limits_),
      timer_(loop, [this] {
        // Alive: the timer is cancelled before self_ is given up, both on this thread.
        Finish(absl::DeadlineExceededError(absl::StrCat(
            "handshake with ", PeerText(),
            " not done in time (limits.handshake_timeout or the caller's deadline); ",
            opening_bytes_ < kOpeningBytes ? "the peer accepted the connection and said nothing"
                                           : "the peer began and stopped")));
      }) {}

StreamHandshake::~StreamHandshake() {
  if (accepted_ && socket_) context_->connections.fetch_sub(1, std::memory_order_relaxed);
}

std::shared_ptr<StreamHandshake> StreamHandshake::Start(EventLoop* loop, UniqueFd socket,
                                                        std::shared_ptr<StreamContext> context,
                                                        std::shared_ptr<const StreamTerms> terms,
                                                        bool accepted, Deadline deadline,
                                                        Done done) {
  std::shared_ptr<StreamHandshake> handshake(new StreamHandshake(
      loop, std::move(socket), std::move(context), std::move(terms), accepted, std::move(done)));
  handshake->self_ = handshake;
  handshake->Begin(deadline);
  return handshake;
}

void StreamHandshake::Begin(Deadline deadline) {
  ConfigureConnected(socket_.get(), /*bounded_reads=*/false);
  context_->kind->Configure(socket_.get(), context_->limits);
  if (terms_->admit) {
    if (absl::Status admitted = terms_->admit(socket_.get()); !admitted.ok()) {
      // A client is told: it could open the socket, so it may know why that does not suffice.
      if (!accepted_ || SendOpeningAnd(MakeClose(admitted))) Finish(std::move(admitted));
      return;
    }
  }
  if (absl::Status watched = loop_->Watch(socket_.get(), EPOLLIN, this); !watched.ok()) {
    Finish(std::move(watched));
    return;
  }
  watched_ = true;
  timer_.Schedule(deadline);
  if (!accepted_) Greet();
}

void StreamHandshake::Greet() {
  int descriptor = -1;
  if (terms_->make_upgrade) {
    upgrade_ = terms_->make_upgrade();
    absl::StatusOr<int> offer = upgrade_->Offer();
    offered_ = offer.ok();
    if (offered_) {
      descriptor = *offer;
    } else if (terms_->upgrade_required) {
      Finish(std::move(offer).status());
      return;
    } else {
      unable_ = std::move(offer).status();
    }
  }
  SendOpeningAnd(OurHello(*context_, *terms_, offered_), descriptor);
}

void StreamHandshake::Cancel(absl::Status why) {
  if (self_ != nullptr) Finish(std::move(why));
}

void StreamHandshake::OnReady(uint32_t) {
  const std::shared_ptr<StreamHandshake> alive = self_;
  if (opening_bytes_ < kOpeningBytes && !ReadOpening()) return;
  while (ReadMessage()) {
  }
}

size_t StreamHandshake::Receive(std::span<std::byte> space) {
  const ssize_t got = descriptors_.Receive(socket_.get(), space);
  if (got > 0) return static_cast<size_t>(got);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  const int error = errno;
  const std::string what = absl::StrCat("handshake with ", PeerText());
  Finish(got < 0 ? SocketError(what, error)
                 : absl::UnavailableError(absl::StrCat(what, ": the peer closed the connection")));
  return 0;
}

bool StreamHandshake::ReadOpening() {
  opening_bytes_ += Receive(std::span(opening_).subspan(opening_bytes_));
  if (self_ == nullptr) return false;
  if (absl::Status checked = CheckOpening(std::span(opening_).first(opening_bytes_));
      !checked.ok()) {
    Refuse(std::move(checked));
    return false;
  }
  return opening_bytes_ == kOpeningBytes;
}

bool StreamHandshake::ReadMessage() {
  FrameAssembler::Received received;
  switch (assembler_.Next(received)) {
    case FrameAssembler::Result::kNeedMore: {
      std::span<std::byte> space = assembler_.Space();
      if (context_->kind->passes_descriptors()) {
        // Not a byte more than the Hello: what follows may belong to shared memory, and descriptors
        // that come with it are not the Hello's.
        const size_t missing = assembler_.missing_bytes();
        const size_t wanted =
            missing != 0 ? missing : kFrameHeaderBytes - assembler_.buffered_bytes();
        space = space.first(std::min(space.size(), wanted));
      }
      const size_t got = Receive(space);
      assembler_.Filled(got);
      if (got == 0) assembler_.ReleaseIdle();
      return got != 0;
    }
    case FrameAssembler::Result::kMessage:
      break;
    case FrameAssembler::Result::kRejected:
    case FrameAssembler::Result::kBroken:
      Refuse(absl::InvalidArgumentError(
          absl::StrCat("peer's first message: ", received.status.message())));
      return false;
  }
  absl::StatusOr<PeerHello> hello = ReadHello(received.message);
  const bool told = received.message.header().type == FrameType::kClose;
  received.message.reset();
  if (told) {
    Finish(std::move(hello).status());
  } else if (!hello.ok()) {
    Refuse(std::move(hello).status());
  } else if (accepted_) {
    Answer(*std::move(hello));
  } else {
    Conclude(*std::move(hello));
  }
  return false;
}

void StreamHandshake::Answer(const PeerHello& hello) {
  std::string declined;
  const absl::StatusOr<int> taken = TakeOffer(hello, declined);
  if (!taken.ok()) {
    Refuse(taken.status());
    return;
  }
  const bool upgraded = *taken >= 0;
  if (SendOpeningAnd(OurHello(*context_, *terms_, upgraded, declined), *taken)) {
    Succeed(hello, upgraded);
  }
}

absl::StatusOr<int> StreamHandshake::TakeOffer(const PeerHello& hello, std::string& declined) {
  constexpr int kDeclined = -1;
  const bool offered =
      context_->kind->passes_descriptors() && (hello.features & kFeatureSharedMemory) != 0;
  const absl::Status came = descriptors_.Check(offered ? 1 : 0);
  if (!offered || absl::IsInvalidArgument(came)) {
    if (!came.ok()) return came;
    return kDeclined;
  }
  if (!terms_->make_upgrade) {
    declined = "shared memory is not offered at this socket";
    return kDeclined;
  }
  absl::Status possible = came;
  if (possible.ok()) {
    upgrade_ = terms_->make_upgrade();
    possible = upgrade_->Verify(descriptors_.Take());
    if (absl::IsInvalidArgument(possible)) return possible;
  }
  if (possible.ok()) {
    absl::StatusOr<int> ours = upgrade_->Offer();
    if (ours.ok()) return ours;
    possible = std::move(ours).status();
  }
  declined = std::string(possible.message());
  return kDeclined;
}

void StreamHandshake::Conclude(const PeerHello& hello) {
  const bool upgraded = offered_ && (hello.features & kFeatureSharedMemory) != 0;
  if (absl::Status came = descriptors_.Check(upgraded ? 1 : 0); !came.ok()) {
    Refuse(std::move(came));
  } else if (upgraded) {
    if (absl::Status verified = upgrade_->Verify(descriptors_.Take()); !verified.ok()) {
      Refuse(std::move(verified));
      return;
    }
    Succeed(hello, /*upgraded=*/true);
  } else {
    std::string declined;
    if (offered_) {
      declined =
          absl::StrCat("the server takes no shared memory: ",
                       hello.local_refusal.empty() ? "it gives no reason" : hello.local_refusal);
      if (terms_->upgrade_required) {
        Finish(absl::FailedPreconditionError(declined));
        return;
      }
    } else if (!unable_.ok()) {
      declined = std::string(unable_.message());
    }
    Succeed(hello, /*upgraded=*/false, std::move(declined));
  }
}

bool StreamHandshake::SendOpeningAnd(OutgoingMessage message, int descriptor) {
  PieceList pieces;
  if (absl::Status finished = FinishHeapMessage(*message, limits_, pieces); !finished.ok()) {
    Finish(std::move(finished));
    return false;
  }
  std::vector<std::byte> bytes;
  if (!greeted_) {
    const auto opening = std::as_bytes(std::span(kOpening));
    bytes.insert(bytes.end(), opening.begin(), opening.end());
  }
  greeted_ = true;
  for (const ByteSpan& piece : pieces) {
    bytes.insert(bytes.end(), piece.data, piece.data + piece.size);
  }
  const ssize_t sent = SendWithDescriptor(socket_.get(), bytes, descriptor);
  if (sent == static_cast<ssize_t>(bytes.size())) return true;
  // A server that turned us away has said why before it closed; that is still to be read.
  if (sent < 0 && errno == EPIPE && !accepted_ && watched_) return true;
  Finish(SocketError("handshake: sending the opening", sent < 0 ? errno : ENOBUFS));
  return false;
}

void StreamHandshake::Refuse(absl::Status why) {
  const auto begun = std::span(opening_).first(opening_bytes_);
  if (IsMi7(begun) && !SendOpeningAnd(MakeClose(why))) return;
  Finish(std::move(why));
}

std::shared_ptr<StreamHandshake> StreamHandshake::Leave() {
  std::shared_ptr<StreamHandshake> alive = std::move(self_);
  timer_.Cancel();
  if (std::exchange(watched_, false)) loop_->Unwatch(socket_.get(), this);
  return alive;
}

void StreamHandshake::Finish(absl::Status why) {
  if (self_ == nullptr) return;
  const std::shared_ptr<StreamHandshake> alive = Leave();
  ::shutdown(socket_.get(), SHUT_WR);
  DiscardUnread(socket_.get());
  std::exchange(done_, nullptr)(std::move(why));
}

void StreamHandshake::Succeed(const PeerHello& hello, bool upgraded, std::string declined) {
  const std::shared_ptr<StreamHandshake> alive = Leave();
  Negotiated negotiated = hello;
  negotiated.features = (hello.features & kFeaturesOfAll) | (upgraded ? kFeatureSharedMemory : 0);
  StreamMade made{
      .connection = nullptr, .peer = hello.instance_id, .declined = std::move(declined)};
  if (upgraded) {
    std::shared_ptr<void> while_open;
    if (accepted_) {
      while_open = std::shared_ptr<void>(nullptr, [context = context_](void*) {
        context->connections.fetch_sub(1, std::memory_order_relaxed);
      });
    }
    made.connection = upgrade_->Make({
        .loop = loop_,
        .socket = std::move(socket_),
        .negotiated = negotiated,
        .accepted = accepted_,
        .while_open = std::move(while_open),
    });
  } else {
    assembler_.ReleaseIdle();
    made.connection = StreamConnection::Create({
        .context = context_,
        .loop = loop_,
        .socket = std::move(socket_),
        .assembler = std::move(assembler_),
        .negotiated = negotiated,
        .accepted = accepted_,
    });
  }
  std::exchange(done_, nullptr)(std::move(made));
}

}  // namespace mi7::transport
