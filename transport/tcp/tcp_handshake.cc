#include "transport/tcp/tcp_handshake.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

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

OutgoingMessage OurHello(const TransportOptions& options) {
  return MakeHello(options.limits, options.instance_id ? options.instance_id.bytes
                                                       : ProcessId().bytes);
}

}  // namespace

TcpHandshake::TcpHandshake(EventLoop* loop, UniqueFd socket, std::shared_ptr<TcpContext> context,
                           bool accepted, Done done)
    : loop_(loop),
      socket_(std::move(socket)),
      context_(std::move(context)),
      accepted_(accepted),
      done_(std::move(done)),
      limits_(HelloLimits(context_->options.limits)),
      assembler_(&limits_),
      timer_(loop, [this] {
        // Alive: the timer is cancelled before self_ is given up, both on this thread.
        Finish(absl::DeadlineExceededError(absl::StrCat(
            "handshake with tcp:", SocketAddress::PeerOf(socket_.get()).ToString(),
            " not done in time (limits.handshake_timeout or the caller's deadline); ",
            opening_bytes_ < kOpeningBytes ? "the peer accepted the connection and said nothing"
                                           : "the peer began and stopped")));
      }) {}

TcpHandshake::~TcpHandshake() {
  if (accepted_ && socket_) context_->connections.fetch_sub(1, std::memory_order_relaxed);
}

std::shared_ptr<TcpHandshake> TcpHandshake::Start(EventLoop* loop, UniqueFd socket,
                                                  std::shared_ptr<TcpContext> context,
                                                  bool accepted, Deadline deadline, Done done) {
  std::shared_ptr<TcpHandshake> handshake(
      new TcpHandshake(loop, std::move(socket), std::move(context), accepted, std::move(done)));
  handshake->self_ = handshake;
  handshake->Begin(deadline);
  return handshake;
}

void TcpHandshake::Begin(Deadline deadline) {
  ConfigureConnected(socket_.get(), /*bounded_reads=*/false);
  if (absl::Status watched = loop_->Watch(socket_.get(), EPOLLIN, this); !watched.ok()) {
    Finish(std::move(watched));
    return;
  }
  watched_ = true;
  timer_.Schedule(deadline);
  if (!accepted_) SendOpeningAnd(OurHello(context_->options));
}

void TcpHandshake::Cancel(absl::Status why) {
  if (self_ != nullptr) Finish(std::move(why));
}

void TcpHandshake::OnReady(uint32_t) {
  const std::shared_ptr<TcpHandshake> alive = self_;
  if (opening_bytes_ < kOpeningBytes && !ReadOpening()) return;
  while (ReadMessage()) {
  }
}

size_t TcpHandshake::Receive(std::span<std::byte> space) {
  const ssize_t got = ::recv(socket_.get(), space.data(), space.size(), MSG_DONTWAIT);
  if (got > 0) return static_cast<size_t>(got);
  if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  const std::string what =
      absl::StrCat("handshake with tcp:", SocketAddress::PeerOf(socket_.get()).ToString());
  Finish(got < 0 ? SocketError(what, errno)
                 : absl::UnavailableError(absl::StrCat(what, ": the peer closed the connection")));
  return 0;
}

bool TcpHandshake::ReadOpening() {
  opening_bytes_ += Receive(std::span(opening_).subspan(opening_bytes_));
  if (self_ == nullptr) return false;
  if (absl::Status checked = CheckOpening(std::span(opening_).first(opening_bytes_));
      !checked.ok()) {
    Refuse(std::move(checked));
    return false;
  }
  return opening_bytes_ == kOpeningBytes;
}

bool TcpHandshake::ReadMessage() {
  FrameAssembler::Received received;
  switch (assembler_.Next(received)) {
    case FrameAssembler::Result::kNeedMore: {
      const size_t got = Receive(assembler_.Space());
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
  absl::StatusOr<PeerHello> negotiated = ReadHello(received.message);
  const bool told = received.message.header().type == FrameType::kClose;
  received.message.reset();
  if (told) {
    Finish(std::move(negotiated));
  } else if (!negotiated.ok()) {
    Refuse(std::move(negotiated).status());
  } else if (!accepted_ || SendOpeningAnd(OurHello(context_->options))) {
    Finish(std::move(negotiated));
  }
  return false;
}

bool TcpHandshake::SendOpeningAnd(OutgoingMessage message) {
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
  const ssize_t sent =
      ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(bytes.size())) return true;
  Finish(SocketError("handshake: sending the opening", sent < 0 ? errno : ENOBUFS));
  return false;
}

void TcpHandshake::Refuse(absl::Status why) {
  const auto begun = std::span(opening_).first(opening_bytes_);
  if (IsMi7(begun) && !SendOpeningAnd(MakeClose(why))) return;
  Finish(std::move(why));
}

void TcpHandshake::Finish(absl::StatusOr<PeerHello> result) {
  if (self_ == nullptr) return;
  const std::shared_ptr<TcpHandshake> alive = std::move(self_);
  timer_.Cancel();
  if (std::exchange(watched_, false)) loop_->Unwatch(socket_.get(), this);
  Done done = std::move(done_);
  if (!result.ok()) {
    ::shutdown(socket_.get(), SHUT_WR);
    DiscardUnread(socket_.get());
    done(std::move(result).status());
    return;
  }
  assembler_.ReleaseIdle();
  done(TcpConnection::Create({
      .context = context_,
      .loop = loop_,
      .socket = std::move(socket_),
      .assembler = std::move(assembler_),
      .negotiated = *result,
      .accepted = accepted_,
  }));
}

}  // namespace mi7::transport
