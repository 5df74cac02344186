#pragma once

// PrivateSegments: segments of one message in pooled private memory.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <vector>

#include <capnp/common.h>
#include <kj/common.h>

#include "base/check.h"
#include "transport/buffer_pool.h"

namespace mi7::transport {

// As thread-safe as the message.
class PrivateSegments {
 public:
  bool empty() const { return blocks_.empty(); }

  // At least `minimum_words`, zeroed; `better_bytes` are better. `for_overwrite`: just so many, of
  // which only the last word is, so that nothing else comes to lie there.
  kj::ArrayPtr<capnp::word> Allocate(size_t minimum_words, size_t better_bytes,
                                     bool for_overwrite) {
    const size_t needed = minimum_words * sizeof(capnp::word);
    if (for_overwrite) {
      blocks_.push_back({BufferPool::Allocate(BufferPool::kZeroedFrom + needed), false});
      capnp::word* const words = WordsOf(blocks_.back());
      std::memset(words + minimum_words - 1, 0, sizeof(capnp::word));
      return {words, minimum_words};
    }
    blocks_.push_back(
        {BufferPool::AllocateZeroed(BufferPool::kZeroedFrom + std::max(needed, better_bytes)),
         true});
    const Block& block = blocks_.back();
    return {WordsOf(block),
            (block.buffer->capacity() - BufferPool::kZeroedFrom) / sizeof(capnp::word)};
  }

  // Before the message ends, which has `segments`, these and others, in the order in which it got
  // them: clears what was used of the zeroed ones, for their next user.
  void Clear(kj::ArrayPtr<const kj::ArrayPtr<const capnp::word>> segments) {
    size_t next = 0;
    for (const auto& segment : segments) {
      if (next == blocks_.size()) break;
      const Block& block = blocks_[next];
      capnp::word* const words = WordsOf(block);
      if (segment.begin() != words) continue;
      if (block.zeroed)
        BufferPool::Clear(reinterpret_cast<std::byte*>(words),
                          segment.size() * sizeof(capnp::word));
      ++next;
    }
    MI7_CHECK(next == blocks_.size(), "Cap'n Proto uses the segments it asked for, in order");
  }

 private:
  struct Block {
    BufferRef buffer;
    bool zeroed;
  };
  static capnp::word* WordsOf(const Block& block) {
    return reinterpret_cast<capnp::word*>(block.buffer->data() + BufferPool::kZeroedFrom);
  }

  std::vector<Block> blocks_;
};

}  // namespace mi7::transport
