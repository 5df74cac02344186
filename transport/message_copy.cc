#include <cstring>
#include <utility>
#include <vector>

#include "transport/message.h"

namespace mi7::transport {

IncomingMessage CopyMessage(const IncomingMessage& message, std::span<std::byte> space) {
  using Segment = IncomingMessage::Segment;
  size_t bytes = message.extra().size();
  for (const Segment& segment : message.segments()) bytes += segment.size() * sizeof(capnp::word);
  Buffer* buffer = nullptr;
  std::byte* out = space.data();
  if (bytes > space.size()) {
    buffer = BufferPool::Allocate(bytes).release();
    out = buffer->data();
  }
  const auto append = [&out](const void* data, size_t size) {
    std::byte* const begin = out;
    if (size != 0) std::memcpy(begin, data, size);
    out += size;
    return begin;
  };
  const std::span<const std::byte> extra(append(message.extra().data(), message.extra().size()),
                                         message.extra().size());
  const auto copy = [&](const Segment& segment) {
    const std::byte* const begin = append(segment.begin(), segment.size() * sizeof(capnp::word));
    return Segment(reinterpret_cast<const capnp::word*>(begin), segment.size());
  };
  IncomingMessage result;
  if (!message.has_body()) {
    result.Set(message.header(), extra, {}, buffer, 0);
    return result;
  }
  if (message.segments().size() == 1) {
    const Segment only = copy(message.segments()[0]);
    result.Set(message.header(), extra, {&only, 1}, buffer, 0);
    result.set_memory_is_private();
    return result;
  }
  std::vector<Segment> segments;
  segments.reserve(message.segments().size());
  for (const Segment& segment : message.segments()) segments.push_back(copy(segment));
  result.Set(message.header(), extra, segments, buffer, 0);
  return result;
}

}  // namespace mi7::transport
