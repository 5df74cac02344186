#pragma once

// A pool of few slots, and its peer.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <gtest/gtest.h>

#include "transport/shm/shm_options.h"
#include "transport/shm/slot_pool.h"

namespace mi7::transport::shm {

class SlotPoolTest : public ::testing::Test {
 protected:
  static ShmOptions Options() {
    ShmOptions options;
    options.slot_classes = {{4096, 8}, {64 << 10, 4}, {1 << 20, 6}};
    return options;
  }
  ~SlotPoolTest() override {
    if (pool_ != nullptr) pool_->Detach();
  }
  // As the peer does.
  void Release(const Slot& slot) {
    static constexpr uint32_t kFirst[] = {0, 8, 12};
    const uint32_t bit = kFirst[slot.size_class] + slot.index;
    peer_->released[bit / 64].fetch_xor(uint64_t{1} << (bit % 64));
  }
  bool IsZero(const Slot& slot) {
    return std::all_of(slot.data, slot.data + slot.bytes,
                       [](std::byte b) { return b == std::byte{}; });
  }

  std::unique_ptr<Control> peer_ = std::make_unique<Control>();
  SlotPool* pool_ = new SlotPool(Options(), *peer_, /*trusted_peer=*/true);
};

}  // namespace mi7::transport::shm
