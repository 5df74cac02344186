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
    if (last_waiting_ == Closed()) return true;  // as good as any answer: nothing is sent any more
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

Stream* SessionStreams::Closed() { return reinterpret_cast<Stream*>(alignof(Stream)); }

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
  Stream* const last = [this] {
    MutexLock lock(&mutex_);
    return last_waiting_;
  }();
  for (bool more = true; more;) {
    Stream* stream;
    {
      MutexLock lock(&mutex_);
      stream = TakeFirst();
    }
    if (stream == nullptr) return;
    stream->OnRoom();
    more = stream != last && connection_->HasRoom();
    stream->Unref();
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
