#pragma once

// Messages that are built in the slots of a connection's pool, where the peer reads them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/object_pool.h"
#include "transport/buffer_pool.h"
#include "transport/message.h"
#include "transport/private_segments.h"
#include "transport/shm/slot_pool.h"
#include "transport/shm/slot_segments.h"

namespace mi7::transport::shm {

// A message whose segments are slots, as long as there are free ones, and private memory otherwise,
// from which it is copied when it is sent. Allocates nothing on the heap once warm, up to four
// segments.
class ShmMessage final : public MessageBody {
 public:
  // Never fails. `bytes`: expected size of the body.
  static OutgoingMessage New(SlotPool& pool, size_t bytes);

  void SetExtra(std::span<const std::byte> bytes) override;
  std::span<const std::byte> extra() const override {
    return {extra_ ? extra_->data() : nullptr, extra_bytes_};
  }
  void Recycle() override;
  kj::ArrayPtr<capnp::word> allocateSegment(capnp::uint minimum_words) override;

 private:
  template <typename T>
  friend class mi7::ObjectPool;
  ShmMessage(SlotPool& pool, size_t hint_bytes) : slots_(pool), hint_bytes_(hint_bytes) {
    further_segments_ = &slots_;
  }
  ~ShmMessage() = default;

  SlotSegments slots_;
  const uint64_t hint_bytes_;
  PrivateSegments private_segments_;
  BufferRef extra_;
  size_t extra_bytes_ = 0;
};

}  // namespace mi7::transport::shm
