#include "tests/shm_hostile/hostile_peer.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "tests/fuzz/receive_stream.h"
#include "transport/shm/ring.h"
#include "transport/shm/shm_connection.h"
#include "transport/transports.h"

namespace mi7::shm_hostile {

using transport::FrameHeader;
using transport::FrameType;
using transport::IncomingMessage;
using transport::TargetKind;
using transport::UniqueFd;
namespace shm = transport::shm;

// --- Witness

void Witness::OnMessage(IncomingMessage&& message) {
  MI7_CHECK(CheckFrameHeader(message.header(), limits_).ok(), "only sound headers come out");
  uint64_t words = 0;
  uint64_t sum = 0;
  for (const IncomingMessage::Segment& segment : message.segments()) {
    words += segment.size();
    const auto* from = reinterpret_cast<const volatile uint64_t*>(segment.begin());
    for (size_t i = 0; i < segment.size(); ++i) sum += from[i];
  }
  for (const std::byte& byte : message.extra()) {
    sum += static_cast<uint64_t>(*const_cast<const volatile std::byte*>(&byte));
  }
  asm volatile("" : : "r"(sum));
  MI7_CHECK(words * 8 + message.extra().size() <= message.header().size,
            "a message is not larger than its header says");
  if (parse_) fuzz::ReadWhole(message, limits_);
  messages_.fetch_add(1, std::memory_order_relaxed);
  Add({.kind = Event::kMessage, .status = absl::OkStatus(), .message = std::move(message)});
}

void Witness::OnRejected(const FrameHeader&, const absl::Status& why) {
  rejected_.fetch_add(1, std::memory_order_relaxed);
  Add({.kind = Event::kRejected, .status = why, .message = {}});
}

void Witness::OnClosed(const absl::Status& why) {
  Add({.kind = Event::kClosed, .status = why, .message = {}});
  {
    absl::MutexLock lock(&mutex_);
    why_ = why;
    closed_.store(true, std::memory_order_release);
  }
  completion_.Complete();
}

void Witness::Add(Event event) {
  if (!record_) return;
  absl::MutexLock lock(&mutex_);
  events_.push_back(std::move(event));
}

Witness::Event Witness::Next() {
  absl::MutexLock lock(&mutex_);
  const auto some = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !events_.empty(); };
  MI7_CHECK(mutex_.AwaitWithTimeout(absl::Condition(&some), absl::Seconds(10)),
            "the connection says within ten seconds what became of a record");
  Event first = std::move(events_.front());
  events_.erase(events_.begin());
  return first;
}

bool Witness::AwaitClosed() {
  absl::MutexLock lock(&mutex_);
  const auto ended = [this] { return closed(); };
  return mutex_.AwaitWithTimeout(absl::Condition(&ended), absl::Seconds(20));
}

absl::Status Witness::why() const {
  absl::MutexLock lock(&mutex_);
  return why_;
}

// --- HostilePeer

RawRecord CallRecord(shm::Form form, uint32_t size, std::vector<uint64_t> words) {
  RawRecord record;
  record.header.size = size;
  record.header.type = FrameType::kCall;
  record.header.target = TargetKind::kService;
  record.header.call_id = 7;
  const auto count = static_cast<uint32_t>(words.size());
  record.shape = shm::ShapeOf(form, shm::CellsOf(count), count);
  record.words = std::move(words);
  return record;
}

transport::ShmOptions SmallSlots() {
  transport::ShmOptions options;
  options.slot_classes.clear();
  for (int i = 0; i < 2; ++i) {
    options.slot_classes.push_back({HostilePeer::kSlotBytes[i], HostilePeer::kSlots[i]});
  }
  return options;
}

HostilePeer::HostilePeer(transport::EventLoop* loop, const PeerOptions& options) : loop_(loop) {
  const auto make = [](uint64_t bytes, bool for_good) {
    auto memory = shm::CreateSharedMemory("hostile", bytes, bytes, for_good);
    MI7_CHECK(memory.ok(), "shared memory is available");
    return *std::move(memory);
  };
  control_ = make(shm::kControlBytes, true);
  shm::Geometry& geometry = half().geometry;
  geometry.magic = shm::kMagic;
  geometry.version = shm::kLayoutVersion;
  geometry.control_bytes = shm::kControlBytes;
  geometry.ring_cells = shm::kRingCells;
  geometry.class_count = 2;
  for (int i = 0; i < 2; ++i) {
    geometry.classes[i].slot_bytes = kSlotBytes[i];
    geometry.classes[i].count = kSlots[i];
    chunks_[i] = make(kSlotBytes[i] * kSlots[i], false);
  }

  const auto duplicate = [](int fd) { return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); };
  auto mine = shm::LocalHalf::Create(std::make_shared<const transport::ShmOptions>(SmallSlots()));
  MI7_CHECK(mine.ok(), "shared memory is available");
  auto theirs = shm::PeerHalf::Verify(duplicate(mine->descriptor()), {});
  MI7_CHECK(theirs.ok(), "a half of ours is sound");
  theirs_ = std::make_unique<shm::PeerHalf>(*std::move(theirs));
  mine->CloseDescriptor();
  auto hostile = shm::PeerHalf::Verify(duplicate(control_.descriptor.get()), {});
  MI7_CHECK(hostile.ok(), "what the hostile peer begins with is sound");

  int sockets[2];
  MI7_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0, "socketpair");
  socket_ = UniqueFd(sockets[1]);
  transport::TransportOptions tested;
  tested.limits = options.limits;
  tested.wait = options.wait;
  witness_ = std::make_shared<Witness>(options.limits, options.parse, options.record);
  connection_ = transport::MakeShmConnection(
      {.options = std::make_shared<const transport::TransportOptions>(tested),
       .loop = loop,
       .socket = UniqueFd(sockets[0]),
       .mine = *std::move(mine),
       .theirs = *std::move(hostile),
       .negotiated = {.message_bytes_max = options.limits.message_bytes_max,
                      .calls_in_flight_max = options.limits.calls_in_flight_max},
       .accepted = options.accepted,
       .trusted = options.trusted,
       .peer = "shm:hostile",
       .local = "shm:test",
       .while_open = nullptr});
  connection_->Start(witness_);
}

HostilePeer::~HostilePeer() {
  connection_->Close(absl::OkStatus());
  MI7_CHECK(witness_->AwaitClosed(), "a connection that is closed ends");
  connection_.reset();
  Fence(loop_);
}

bool HostilePeer::SendBytes(std::span<const uint8_t> bytes,
                            std::initializer_list<int> descriptors) {
  iovec vector{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (descriptors.size() != 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size() * sizeof(int));
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), descriptors.begin(), descriptors.size() * sizeof(int));
  }
  return ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

bool HostilePeer::Put(const RawRecord& record) {
  const uint32_t said = (record.shape >> 8) & 0xff;
  const uint32_t cells = said == 0 || said > shm::kRecordCellsMax ? 1 : said;
  const auto consumed = theirs().consumed.load(std::memory_order_acquire);
  if (static_cast<uint32_t>(position_) - consumed + cells > shm::kRingCells) return false;
  shm::Control& control = half();
  const auto cell_at = [&](uint64_t i) -> shm::Cell& {
    return control.ring[(position_ + i) % shm::kRingCells];
  };
  shm::Cell& first = cell_at(0);
  // Relaxed stores: another thread may scribble over them at the same moment.
  const auto store = [](auto& place, auto value) {
    __atomic_store_n(&place, value, __ATOMIC_RELAXED);
  };
  store(first.shape, record.shape);
  uint64_t header[shm::kHeaderWords];
  std::memcpy(header, &record.header, sizeof(header));
  for (uint32_t i = 0; i < shm::kHeaderWords; ++i) store(first.payload[i], header[i]);
  for (uint32_t i = 0; i < record.words.size(); ++i) {
    const uint32_t at = shm::kHeaderWords + i;
    if (at / shm::kCellWords >= cells) break;
    store(cell_at(at / shm::kCellWords).payload[at % shm::kCellWords], record.words[i]);
  }
  first.sequence.store(shm::SequenceAt(position_), std::memory_order_release);
  position_ += cells;
  return true;
}

bool HostilePeer::GiveBackPage(uint64_t which) {
  const size_t size_class = which % 2;
  const uint64_t page = which / 2 % (chunks_[size_class].mapping.bytes() / shm::kPageBytes);
  return ::fallocate(chunk_descriptor(size_class), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     static_cast<off_t>(page * shm::kPageBytes), shm::kPageBytes) == 0;
}

void HostilePeer::Ring() {
  half().bell.fetch_add(1, std::memory_order_seq_cst);
  ::syscall(SYS_futex, &half().bell, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  SendByte(shm::kWakeByte);
}

void HostilePeer::HangUp() { socket_.reset(); }

void Fence(transport::EventLoop* loop) {
  absl::Notification reached;
  loop->Post([&reached] { reached.Notify(); });
  MI7_CHECK(reached.WaitForNotificationWithTimeout(absl::Seconds(20)), "the loop is not stuck");
}

}  // namespace mi7::shm_hostile
