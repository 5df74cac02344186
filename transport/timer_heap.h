#pragma once

// TimerHeap: pending timers by time. A binary heap whose entries know their place, so that one is
// removed in O(log n); a loop with many calls in flight holds a timer for each deadline.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

namespace mi7::transport {

// Not thread-safe.
class TimerHeap {
 public:
  // What is kept; derive from it.
  struct Entry {
    int64_t at_ns = 0;
    size_t place = kNowhere;
  };

  // The earliest time, INT64_MAX when there is none.
  int64_t next_ns() const {
    return heap_.empty() ? std::numeric_limits<int64_t>::max() : heap_[0]->at_ns;
  }

  // `entry` must not be in the heap.
  void Insert(std::shared_ptr<Entry> entry, int64_t at_ns) {
    entry->at_ns = at_ns;
    heap_.emplace_back();
    Up(heap_.size() - 1, std::move(entry));
  }

  // Nothing when the entry is not in the heap.
  void Remove(Entry& entry) {
    if (entry.place == kNowhere) return;
    const size_t place = std::exchange(entry.place, kNowhere);
    std::shared_ptr<Entry> last = std::move(heap_.back());
    heap_.pop_back();
    if (place == heap_.size()) return;
    // The one that fills the gap may belong above or below it.
    if (place > 0 && last->at_ns < heap_[Parent(place)]->at_ns) {
      Up(place, std::move(last));
    } else {
      Down(place, std::move(last));
    }
  }

  // Takes out the earliest entry when its time has come; nullptr when not.
  std::shared_ptr<Entry> PopDue(int64_t now_ns) {
    if (heap_.empty() || heap_[0]->at_ns > now_ns) return nullptr;
    std::shared_ptr<Entry> due = heap_[0];
    Remove(*due);
    return due;
  }

 private:
  static constexpr size_t kNowhere = std::numeric_limits<size_t>::max();
  static size_t Parent(size_t place) { return (place - 1) / 2; }

  void Put(size_t place, std::shared_ptr<Entry> entry) {
    entry->place = place;
    heap_[place] = std::move(entry);
  }
  void Up(size_t place, std::shared_ptr<Entry> entry) {
    while (place > 0 && entry->at_ns < heap_[Parent(place)]->at_ns) {
      Put(place, std::move(heap_[Parent(place)]));
      place = Parent(place);
    }
    Put(place, std::move(entry));
  }
  void Down(size_t place, std::shared_ptr<Entry> entry) {
    for (size_t child; (child = 2 * place + 1) < heap_.size(); place = child) {
      if (child + 1 < heap_.size() && heap_[child + 1]->at_ns < heap_[child]->at_ns) ++child;
      if (heap_[child]->at_ns >= entry->at_ns) break;
      Put(place, std::move(heap_[child]));
    }
    Put(place, std::move(entry));
  }

  std::vector<std::shared_ptr<Entry>> heap_;
};

}  // namespace mi7::transport
