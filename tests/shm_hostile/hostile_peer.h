#pragma once

// One end of a shared-memory connection that keeps no rule: it can write anything anywhere in its
// half and its slots, at any time, and anything to the socket. The other end is a real connection
// in the same process.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/limits.h"
#include "transport/completion.h"
#include "transport/connection.h"
#include "transport/event_loop.h"
#include "transport/message.h"
#include "transport/shm/half.h"
#include "transport/shm/layout.h"
#include "transport/shm/shm_options.h"
#include "transport/unique_fd.h"
#include "transport/wait_policy.h"

namespace mi7::shm_hostile {

// What the tested connection told its receiver.
class Witness final : public transport::Receiver {
 public:
  struct Event {
    enum Kind : uint8_t { kMessage, kRejected, kClosed } kind;
    absl::Status status;                 // kRejected, kClosed
    transport::IncomingMessage message;  // kMessage
  };

  // `parse`: every message is read to its end with a Cap'n Proto reader; otherwise each of its
  // words is touched. `record`: events are kept.
  Witness(const Limits& limits, bool parse, bool record)
      : limits_(limits), parse_(parse), record_(record) {}

  void OnMessage(transport::IncomingMessage&& message) override;
  void OnRejected(const transport::FrameHeader& header, const absl::Status& why) override;
  void OnWritable() override {}
  void OnUnsent(const transport::FrameHeader&, const absl::Status&) override {}
  void OnClosed(const absl::Status& why) override;

  // The next event, which must come within ten seconds.
  Event Next();
  bool closed() const { return closed_.load(std::memory_order_acquire); }
  // Waits for the end; false when it does not come within twenty seconds.
  bool AwaitClosed();
  absl::Status why() const;
  // What Await of the tested connection may wait for: done at the end.
  transport::Completion& completion() { return completion_; }
  uint64_t messages() const { return messages_.load(std::memory_order_relaxed); }
  uint64_t rejected() const { return rejected_.load(std::memory_order_relaxed); }

 private:
  void Add(Event event);

  const Limits limits_;
  const bool parse_;
  const bool record_;
  std::atomic<uint64_t> messages_{0};
  std::atomic<uint64_t> rejected_{0};
  std::atomic<bool> closed_{false};
  transport::Completion completion_;
  mutable absl::Mutex mutex_;
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
};

// A record as it will stand in the ring.
struct RawRecord {
  transport::FrameHeader header;
  uint32_t shape = 0;
  std::vector<uint64_t> words;
};

constexpr uint64_t Describe(uint32_t words, uint16_t slot, uint8_t size_class,
                            uint8_t reserved = 0) {
  return words | uint64_t{slot} << 32 | uint64_t{size_class} << 48 | uint64_t{reserved} << 56;
}

// A call whose header is sound for `size` bytes, in a record of `words` words.
RawRecord CallRecord(transport::shm::Form form, uint32_t size, std::vector<uint64_t> words);

struct PeerOptions {
  bool trusted = false;
  bool accepted = true;
  bool parse = true;
  bool record = true;
  transport::WaitPolicy wait = transport::WaitPolicy::kAdaptive;
  Limits limits;
};

// One user at a time, but for the memory, which is everybody's.
class HostilePeer {
 public:
  // The size classes of both halves.
  static constexpr uint64_t kSlotBytes[2] = {4096, 65536};
  static constexpr uint32_t kSlots[2] = {8, 4};

  // Makes the connection and starts it.
  HostilePeer(transport::EventLoop* loop, const PeerOptions& options);
  // Closes it, if it is not closed yet, and waits until all of it is gone.
  ~HostilePeer();

  transport::shm::Control& half() {
    return *reinterpret_cast<transport::shm::Control*>(control_.mapping.data());
  }
  // The tested side's half, as a peer sees it.
  const transport::shm::Control& theirs() const { return theirs_->control(); }
  std::span<uint64_t> control_words() {
    return {reinterpret_cast<uint64_t*>(control_.mapping.data()), 4096 / 8};
  }
  std::span<uint64_t> chunk_words(size_t size_class) {
    const transport::shm::Mapping& chunk = chunks_[size_class].mapping;
    return {reinterpret_cast<uint64_t*>(chunk.data()), chunk.bytes() / 8};
  }
  uint64_t* slot(size_t size_class, size_t index) {
    return chunk_words(size_class).data() + index * kSlotBytes[size_class] / 8;
  }
  int chunk_descriptor(size_t size_class) const { return chunks_[size_class].descriptor.get(); }
  int socket() const { return socket_.get(); }
  const std::shared_ptr<transport::Connection>& connection() const { return connection_; }
  Witness& witness() { return *witness_; }

  // Bytes on the socket, with descriptors. False: the system took them not.
  bool SendBytes(std::span<const uint8_t> bytes, std::initializer_list<int> descriptors = {});
  bool SendByte(uint8_t byte, std::initializer_list<int> descriptors = {}) {
    return SendBytes({&byte, 1}, descriptors);
  }
  // As the protocol has it.
  void SendChunk(size_t size_class) {
    SendByte(static_cast<uint8_t>(transport::shm::kChunkByte + size_class),
             {chunk_descriptor(size_class)});
  }

  // Writes a record, whatever it says, and makes it visible. False: the ring is full. As many cells
  // are passed over as `shape` says, when that is possible.
  bool Put(const RawRecord& record);
  // Gives one page of its slots back to the system, `which` of them; it is zero when it is read
  // again. False: the system does not take it.
  bool GiveBackPage(uint64_t which);
  // Wakes the tested side if it sleeps: both ways of it.
  void Ring();
  // Ends the socket, as a process does that dies.
  void HangUp();

 private:
  transport::EventLoop* const loop_;
  transport::shm::SharedMemory control_;
  transport::shm::SharedMemory chunks_[2];
  std::unique_ptr<transport::shm::PeerHalf> theirs_;
  transport::UniqueFd socket_;
  std::shared_ptr<Witness> witness_;
  std::shared_ptr<transport::Connection> connection_;
  uint64_t position_ = 0;  // in the stream of cells
};

// Waits until everything that was posted to `loop` has run.
void Fence(transport::EventLoop* loop);

// The size classes above, as options.
transport::ShmOptions SmallSlots();

}  // namespace mi7::shm_hostile
