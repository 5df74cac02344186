#pragma once

// KeptSources: the sources that an event loop polls in turn until they are put to rest.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "transport/event_loop.h"

namespace mi7::transport {

// Loop thread only. Sources may keep or stop others, or themselves, while they are polled.
class KeptSources {
 public:
  bool empty() const { return kept_.empty(); }

  // Does nothing for one that is kept already.
  void Keep(SpinSource* source) {
    for (const Kept& entry : kept_) {
      if (entry.source == source) return;
    }
    kept_.push_back({source, 0});
  }
  void Stop(SpinSource* source) {
    for (Kept& entry : kept_) {
      if (entry.source != source) continue;
      entry.source = nullptr;
      stopped_ = true;
    }
  }

  // Polls all, and puts to rest who has been quiet for long while others are not. Whether there was
  // work.
  bool Poll() {
    bool worked = false;
    // By index: the list may grow meanwhile.
    for (size_t i = 0; i < kept_.size(); ++i) {
      if (kept_[i].source == nullptr) continue;
      if (kept_[i].source->Poll()) {
        worked = true;
        kept_[i].quiet_polls = 0;
      } else if (++kept_[i].quiet_polls >= kQuietPolls && kept_.size() > 1) {
        kept_[i].quiet_polls = 0;
        RestOne(i);
      }
    }
    if (stopped_) [[unlikely]]
      Compact();
    return worked;
  }

  // Puts all to rest; false when one of them has work at hand, and is still kept.
  bool Rest() {
    bool all = true;
    for (size_t i = 0; i < kept_.size(); ++i) all &= RestOne(i);
    Compact();
    return all;
  }

 private:
  // Fruitless polls after which a source is put to rest while others keep the loop busy.
  static constexpr uint32_t kQuietPolls = 4096;
  struct Kept {
    SpinSource* source;  // nullptr: stopped while the list was walked
    uint32_t quiet_polls;
  };

  bool RestOne(size_t i) {
    if (kept_[i].source == nullptr) return true;
    if (!kept_[i].source->Rest()) return false;
    kept_[i].source = nullptr;
    stopped_ = true;
    return true;
  }
  void Compact() {
    std::erase_if(kept_, [](const Kept& entry) { return entry.source == nullptr; });
    stopped_ = false;
  }

  std::vector<Kept> kept_;
  bool stopped_ = false;  // an entry is nullptr
};

}  // namespace mi7::transport
