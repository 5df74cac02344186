#pragma once

// CallTable: the calls in flight by id (Cap'n Proto RPC's "questions").

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/inlined_vector.h"

namespace mi7 {

class ClientCall;

// Ids are dense, and the one that was freed last is given next. An entry is a call, or, when its id
// is free, the free one after it, so that the table is one piece of memory; with up to two ids it
// lies in the object itself, as idle connections have one. Not thread-safe.
class CallTable {
 public:
  // The id that `call`, which is not nullptr, has from now on.
  uint32_t Add(ClientCall* call) {
    if (first_free_ == kNone) {
      entries_.push_back(OfCall(call));
      ++in_use_;
      return static_cast<uint32_t>(entries_.size() - 1);
    }
    const uint32_t id = first_free_;
    first_free_ = static_cast<uint32_t>(std::exchange(entries_[id], OfCall(call)) >> 1);
    ++in_use_;
    return id;
  }
  // nullptr: the id is nobody's.
  ClientCall* At(uint32_t id) const {
    if (id >= entries_.size() || (entries_[id] & kFree) != 0) return nullptr;
    return reinterpret_cast<ClientCall*>(entries_[id]);
  }
  // Gives an id that is in use to another call.
  void Replace(uint32_t id, ClientCall* call) { entries_[id] = OfCall(call); }
  // Of an id that is in use.
  void Free(uint32_t id) {
    if (--in_use_ == 0 && entries_.size() > kKeptIdsMax) {
      Clear();
      return;
    }
    entries_[id] = uintptr_t{first_free_} << 1 | kFree;
    first_free_ = id;
  }
  uint32_t in_use() const { return in_use_; }

  // Takes out all calls, in the order of their ids.
  std::vector<ClientCall*> TakeAll() {
    std::vector<ClientCall*> calls;
    calls.reserve(in_use_);
    for (const uintptr_t entry : entries_) {
      if ((entry & kFree) == 0) calls.push_back(reinterpret_cast<ClientCall*>(entry));
    }
    Clear();
    return calls;
  }

 private:
  static constexpr uint32_t kNone = ~uint32_t{0};
  static constexpr uintptr_t kFree = 1;  // no call's address is odd
  // A table that held more than this many ids gives its memory back when it is empty.
  static constexpr size_t kKeptIdsMax = 64;

  using Entries = absl::InlinedVector<uintptr_t, 2>;

  static uintptr_t OfCall(ClientCall* call) { return reinterpret_cast<uintptr_t>(call); }
  void Clear() {
    entries_.clear();
    entries_.shrink_to_fit();
    first_free_ = kNone;
    in_use_ = 0;
  }

  Entries entries_;
  uint32_t first_free_ = kNone;
  uint32_t in_use_ = 0;
};
static_assert(sizeof(uintptr_t) == 8, "an entry has room for an id and a bit");

}  // namespace mi7
