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
    if (closed_) return true;  // as good as any answer: nothing is sent any more
    if (!std::exchange(stream->waits_for_room_, true)) {
      stream->Ref();
      stream->next_waiting_ = std::exchange(last_waiting_, stream);
    }
  }
  // Listed before the connection is asked once more, whose OnWritable finds it then.
  return connection_->HasRoom();
}

Stream* SessionStreams::TakeWaiting() {
  Stream* first = nullptr;
  while (last_waiting_ != nullptr) {
    Stream* const stream = std::exchange(last_waiting_, last_waiting_->next_waiting_);
    stream->next_waiting_ = std::exchange(first, stream);
  }
  return first;
}

void SessionStreams::OnWritable() {
  Stream* waiting;
  {
    MutexLock lock(&mutex_);
    waiting = TakeWaiting();
  }
  while (waiting != nullptr) {
    Stream* stream;
    {
      // From here on it may be listed again.
      MutexLock lock(&mutex_);
      stream = std::exchange(waiting, waiting->next_waiting_);
      stream->waits_for_room_ = false;
    }
    stream->OnRoom();
    stream->Unref();
  }
}

void SessionStreams::OnClosed() {
  Stream* waiting;
  {
    MutexLock lock(&mutex_);
    closed_ = true;
    waiting = TakeWaiting();
  }
  while (waiting != nullptr) std::exchange(waiting, waiting->next_waiting_)->Unref();
}

}  // namespace mi7
