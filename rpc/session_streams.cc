#include "rpc/session_streams.h"

#include <utility>

#include "rpc/stream.h"

namespace mi7 {

SessionStreams::SessionStreams(transport::Connection* connection,
                               const transport::Negotiated& negotiated)
    : connection_(connection),
      peer_window_((negotiated.features & transport::kFeatureStreams) != 0
                       ? negotiated.stream_window_bytes
                       : 0) {}

bool SessionStreams::HasRoom(Stream* stream) {
  if (connection_->HasRoom()) [[likely]]
    return true;
  {
    MutexLock lock(&mutex_);
    // As good as any answer: nothing is sent here any more.
    if (last_waiting_ == Closed() || !stream->IsOf(*this)) return true;
    if (!std::exchange(stream->waits_for_room_, true)) {
      stream->Ref();
      stream->next_waiting_ =
          last_waiting_ == nullptr ? stream : std::exchange(last_waiting_->next_waiting_, stream);
      last_waiting_ = stream;
    }
  }
  // Listed before the connection is asked once more, whose OnWritable finds it then.
  return connection_->HasRoom();
}

void SessionStreams::Forget(Stream* stream) {
  {
    MutexLock lock(&mutex_);
    // Who asks for room from now on finds it of another connection, or of none.
    if (!std::exchange(stream->waits_for_room_, false)) return;
    Stream* before = last_waiting_;
    while (before->next_waiting_ != stream) before = before->next_waiting_;
    before->next_waiting_ = stream->next_waiting_;
    if (last_waiting_ == stream) last_waiting_ = before == stream ? nullptr : before;
  }
  stream->Unref();
}

Stream* SessionStreams::Closed() { return reinterpret_cast<Stream*>(alignof(Stream)); }

size_t SessionStreams::Waiting() {
  MutexLock lock(&mutex_);
  if (last_waiting_ == nullptr || last_waiting_ == Closed()) return 0;
  size_t count = 1;
  for (const Stream* each = last_waiting_->next_waiting_; each != last_waiting_;
       each = each->next_waiting_) {
    ++count;
  }
  return count;
}

Stream* SessionStreams::TakeFirst() {
  if (last_waiting_ == nullptr || last_waiting_ == Closed()) return nullptr;
  Stream* const stream = last_waiting_->next_waiting_;
  if (stream == last_waiting_) {
    last_waiting_ = nullptr;
  } else {
    last_waiting_->next_waiting_ = stream->next_waiting_;
  }
  stream->waits_for_room_ = false;
  return stream;
}

void SessionStreams::OnWritable() {
  // Each once, since one that only has to grant credit again and again must not keep us here.
  for (size_t left = Waiting(); left != 0; --left) {
    Stream* stream;
    {
      MutexLock lock(&mutex_);
      stream = TakeFirst();
    }
    if (stream == nullptr) return;
    stream->OnRoom();
    const bool more = left > 1 && connection_->HasRoom();
    stream->Unref();
    if (!more) return;
  }
}

void SessionStreams::OnClosed() {
  for (;;) {
    Stream* stream;
    {
      MutexLock lock(&mutex_);
      stream = TakeFirst();
      if (stream == nullptr) {
        last_waiting_ = Closed();
        return;
      }
    }
    stream->Unref();
  }
}

}  // namespace mi7
