#pragma once

// StreamWriter: the sending half of a stream, as its user has it, at either end.
//
//   auto message = writer.NewMessage();          // a builder, in the transport's own memory
//   message->setX(1);
//   absl::Status sent = writer.Write(std::move(message)).Wait();       // blocking, or
//   absl::Status sent = co_await writer.Write(std::move(message));     // in a coroutine, or
//   writer.Write(std::move(message)).Then([](absl::Status sent) {});   // as a callback
//
// A message leaves at once. A write completes when the next one may be written, which is when the
// reader has taken enough of what was sent before: so neither end keeps more than a window of
// messages, however slow the other one is. Until then Write answers FAILED_PRECONDITION.
//
// A write that failed says why the stream is over, or which limit the message exceeded, after which
// the stream goes on. But where the stream is made again by itself (docs/RETRIES.md), and the next
// server admits less than the one before, a message that was written before, or at that very
// moment, ends it.

#include <coroutine>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "rpc/request.h"
#include "rpc/stream.h"

namespace mi7 {

// A message under construction. `draft->` reaches the struct's Builder. Move-only. It may outlive
// its writer, stream and channel, which it then keeps alive where it is built in the connection's
// memory.
template <typename T>
class [[nodiscard]] StreamDraft {
 public:
  StreamDraft(transport::OutgoingMessage message, const StreamRef& stream)
      : memory_(message->segment_source != nullptr || !message->is_heap() ? stream.Share()
                                                                          : StreamRef()),
        message_(std::move(message)),
        root_(message_->template initRoot<T>()) {}
  StreamDraft(StreamDraft&&) noexcept = default;
  StreamDraft& operator=(StreamDraft&&) noexcept = default;

  typename T::Builder* operator->() { return &root_; }
  typename T::Builder& operator*() { return root_; }

 private:
  template <typename>
  friend class StreamWriter;
  StreamRef memory_;  // keeps that; empty: it needs nobody else's
  transport::OutgoingMessage message_;
  typename T::Builder root_;
};

// A write under way: wait for it once, in one of three ways, or drop it and look at ready() of the
// writer before the next one.
class [[nodiscard]] StreamWriting {
 public:
  // Blocks. FAILED_PRECONDITION on a thread that would wait for itself (a callback's or a
  // handler's on the same connection); the message was sent nevertheless.
  absl::Status Wait() {
    if (!refused_.ok()) return refused_;
    if (absl::Status waited = stream_->Await(stream_->outbox()); !waited.ok()) return waited;
    return stream_->outbox().result();
  }

  // Calls `callback(absl::Status)` once: on the thread that drives the connection, or right here
  // when the next message may be written already, or, right here being inside another callback,
  // after that one has returned. The writer must live until then. Captures up to 48 bytes cost no
  // allocation.
  template <typename F>
  void Then(F callback) {
    if (!refused_.ok()) return callback(refused_);
    stream_->WantBackground();
    stream_->outbox().OnReadyInTurn([callback = std::move(callback), stream = stream_]() mutable {
      callback(stream->outbox().result());
    });
  }

  struct Awaiter {
    Stream* stream;
    absl::Status refused;
    bool waits = false;
    bool await_ready() { return !refused.ok() || stream->outbox().Ready(); }
    bool await_suspend(std::coroutine_handle<> coroutine) {
      // Not through `this` afterwards: the coroutine may resume and end before OnReady returns.
      waits = true;
      stream->WantBackground();
      return stream->outbox().OnReady([coroutine] { coroutine.resume(); });
    }
    absl::Status await_resume() {
      waits = false;
      return refused.ok() ? stream->outbox().result() : refused;
    }
    // A coroutine that is destroyed while it waits must not be resumed.
    ~Awaiter() {
      if (waits) stream->outbox().Forget();
    }
  };
  Awaiter operator co_await() && { return Awaiter{stream_, std::move(refused_)}; }

 private:
  template <typename>
  friend class StreamWriter;
  StreamWriting(Stream* stream, absl::Status refused)
      : stream_(stream), refused_(std::move(refused)) {}
  Stream* stream_;
  absl::Status refused_;  // nothing was sent, and nothing is to be waited for
};

// Move-only, used by one thread at a time; a reader and a writer of one stream are independent.
template <typename T>
class [[nodiscard]] StreamWriter {
 public:
  StreamWriter() = default;
  explicit StreamWriter(StreamRef stream) : stream_(std::move(stream)) {}
  StreamWriter(StreamWriter&&) noexcept = default;
  StreamWriter& operator=(StreamWriter&&) noexcept = default;

  // Never fails: what is wrong is reported by Write.
  StreamDraft<T> NewMessage() { return StreamDraft<T>(stream()->NewMessage(), stream_); }
  // Sends `draft`, whose Builder must not be used any more. One write at a time.
  StreamWriting Write(StreamDraft<T>&& draft) {
    MI7_CHECK(draft.message_, "StreamWriter: Write of a message that was written or moved");
    return StreamWriting(stream(), stream()->outbox().Write(std::move(draft.message_)));
  }
  // Whether a message may be written now.
  bool ready() const { return stream()->outbox().Ready(); }
  // Tells the other end that nothing follows; the reading goes on. Idempotent. Without effect at
  // the end that answers the call: there the answer is the end.
  void Close() {
    if (stream()->call() != nullptr) stream()->outbox().Close();
  }

 private:
  Stream* stream() const {
    MI7_CHECK(stream_, "StreamWriter: use of an empty writer");
    return stream_.get();
  }
  StreamRef stream_;
};

}  // namespace mi7
