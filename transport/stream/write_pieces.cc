#include "transport/stream/write_pieces.h"

#include <cstring>

namespace mi7::transport {

PieceList& WritePieces::List(MessageBody* first) {
  pieces_.clear();
  copied_bytes_ = 0;
  if (first->next == nullptr) {
    AppendPieces(*first, pieces_);
    return pieces_;
  }
  if (copies_ == nullptr) copies_ = std::make_unique_for_overwrite<std::byte[]>(kCopiedBytesMax);
  for (MessageBody* body = first; body != nullptr; body = body->next) {
    const size_t bytes = body->header.size;
    const size_t begin = pieces_.size();
    AppendPieces(*body, pieces_);
    if (bytes <= kCopiedMessageBytesMax && copied_bytes_ + bytes <= kCopiedBytesMax) Copy(begin);
  }
  return pieces_;
}

void WritePieces::Copy(size_t begin) {
  std::byte* const start = copies_.get() + copied_bytes_;
  std::byte* end = start;
  for (size_t i = begin; i < pieces_.size(); ++i) {
    std::memcpy(end, pieces_[i].data, pieces_[i].size);
    end += pieces_[i].size;
  }
  const auto bytes = static_cast<size_t>(end - start);
  copied_bytes_ += bytes;
  pieces_.resize(begin);
  if (begin != 0 && pieces_[begin - 1].data + pieces_[begin - 1].size == start) {
    pieces_[begin - 1].size += bytes;
  } else {
    pieces_.push_back({start, bytes});
  }
}

}  // namespace mi7::transport
