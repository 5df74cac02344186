#pragma once

// StreamReader: the receiving half of a stream, as its user has it, at either end.
//
//   while (auto message = reader.Read().Wait(); message.ok() && *message) {   // blocking
//     Use((*message)->getX());
//   }
//   auto message = co_await reader.Read();                                     // in a coroutine
//   reader.Read().Then([](auto message) { ... });                              // as a callback
//
//   for (const auto& message : reader.Messages()) Use(message.getX());         // blocking, all
//   absl::Status end = reader.status();
//
// A read gives a message; std::nullopt at the end in order; or why the stream ended otherwise. A
// message is read in place where the transport received it, and belongs to the reader's user: the
// sender may send further ones as messages are read, so whoever keeps many keeps their memory.

#include <coroutine>
#include <cstddef>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/check.h"
#include "rpc/received_message.h"
#include "rpc/request.h"
#include "rpc/stream.h"
#include "rpc/stream_interception.h"

namespace mi7 {

// One message of a stream. Use it like the struct's Reader; it must not outlive the StreamMessage.
// Getters of a malformed part throw kj::Exception; the root is checked before you get it.
template <typename T>
class StreamMessage : public T::Reader {
 public:
  StreamMessage(StreamMessage&&) noexcept = default;
  StreamMessage& operator=(StreamMessage&&) noexcept = default;

 private:
  template <typename>
  friend class StreamReader;
  StreamMessage(ReceivedMessageRef message, typename T::Reader reader)
      : T::Reader(reader), message_(std::move(message)) {}
  ReceivedMessageRef message_;
};

// Move-only, used by one thread at a time; a reader and a writer of one stream are independent. At
// the end that makes the call a reader that is dropped before the end of its stream cancels the
// call, except for a BidiStream's; at the other end the handler's answer ends the stream, whatever
// is dropped.
template <typename T>
class [[nodiscard]] StreamReader {
 public:
  using Result = absl::StatusOr<std::optional<StreamMessage<T>>>;
  class Reading;
  class Range;

  StreamReader() = default;
  // `cancels`: see above.
  explicit StreamReader(StreamRef stream, bool cancels = false)
      : stream_(std::move(stream)), cancels_(cancels) {}
  StreamReader(StreamReader&& other) noexcept = default;
  StreamReader& operator=(StreamReader&& other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(cancels_, other.cancels_);
    return *this;
  }
  ~StreamReader() {
    if (cancels_ && stream_) stream_->call()->Cancel();
  }

  // The next message, one read at a time. Nothing is lost when a Reading is dropped.
  Reading Read() { return Reading(this); }
  // What is there without waiting; std::nullopt: nothing yet.
  std::optional<Result> TryRead();
  // All messages to the end, for a thread: the iterator blocks. Then status() says how it ended;
  // where this thread must not block (see Reading::Wait), that, and there may be more.
  Range Messages() { return Range(this); }
  // OK until a read has given the end; then how it was.
  absl::Status status() const {
    return stream_ ? stream_->inbox().read_status() : absl::OkStatus();
  }

  // Ends the call with CANCELLED unless it is over; the server is told. Without effect at the end
  // that answers the call.
  void Cancel() {
    if (stream_ && stream_->call() != nullptr) canceller().Cancel();
  }
  // Cancels from anywhere; empty at the end that answers the call.
  CallCanceller canceller() const {
    ClientCall* const call = stream_ ? stream_->call() : nullptr;
    return call != nullptr ? CallCanceller(call) : CallCanceller();
  }

  // A read under way: wait for it once, in one of three ways.
  class [[nodiscard]] Reading {
   public:
    // Blocks. FAILED_PRECONDITION on a thread that would wait for itself (a callback's or a
    // handler's on the same connection), where only what is there already can be read.
    Result Wait() {
      if (absl::Status waited = reader_->stream_->Await(inbox()); !waited.ok()) return waited;
      return Take(reader_->stream_);
    }

    // Calls `callback(Result)` once: on the thread that drives the connection, or right here when
    // there is something already, or, right here being inside another callback, after that one has
    // returned; also when the reader is dropped meanwhile, which may end the stream. Captures up to
    // 48 bytes cost no allocation.
    template <typename F>
    void Then(F callback) {
      reader_->stream_->WantBackground();
      StreamInbox& half = inbox();
      half.OnReadyInTurn([callback = std::move(callback),
                          stream = reader_->stream_.Share()]() mutable { callback(Take(stream)); });
    }

    struct Awaiter {
      StreamReader* reader;
      bool waits = false;
      bool await_ready() { return reader->stream_->inbox().Ready(); }
      bool await_suspend(std::coroutine_handle<> coroutine) {
        // Not through `this` afterwards: the coroutine may resume and end before OnReady returns.
        waits = true;
        reader->stream_->WantBackground();
        return reader->stream_->inbox().OnReady([coroutine] { coroutine.resume(); });
      }
      Result await_resume() {
        waits = false;
        return Take(reader->stream_);
      }
      // A coroutine that is destroyed while it waits must not be resumed.
      ~Awaiter() {
        if (waits) reader->stream_->inbox().Forget();
      }
    };
    Awaiter operator co_await() && { return Awaiter{reader_}; }

   private:
    friend class StreamReader;
    explicit Reading(StreamReader* reader) : reader_(reader) {
      MI7_CHECK(reader->stream_, "StreamReader: Read of an empty reader");
    }
    StreamInbox& inbox() const { return reader_->stream_->inbox(); }
    StreamReader* reader_;
  };

  // An input range.
  class Range {
   public:
    class Iterator {
     public:
      using iterator_category = std::input_iterator_tag;
      using value_type = StreamMessage<T>;
      using difference_type = std::ptrdiff_t;
      using pointer = const StreamMessage<T>*;
      using reference = const StreamMessage<T>&;

      const StreamMessage<T>& operator*() const { return *message_; }
      const StreamMessage<T>* operator->() const { return &*message_; }
      Iterator& operator++() {
        message_.reset();
        Result next = reader_->Read().Wait();
        if (next.ok()) {
          message_ = *std::move(next);
        } else {
          reader_->stream_->inbox().read_status() = next.status();
        }
        return *this;
      }
      bool operator==(std::default_sentinel_t) const { return !message_; }

     private:
      friend class Range;
      explicit Iterator(StreamReader* reader) : reader_(reader) { ++*this; }
      StreamReader* reader_;
      std::optional<StreamMessage<T>> message_;
    };
    Iterator begin() const { return Iterator(reader_); }
    std::default_sentinel_t end() const { return {}; }

   private:
    friend class StreamReader;
    explicit Range(StreamReader* reader) : reader_(reader) {}
    StreamReader* reader_;
  };

 private:
  // Of an inbox that is ready.
  static Result Take(const StreamRef& stream);

  StreamRef stream_;
  bool cancels_ = false;
};

template <typename T>
typename StreamReader<T>::Result StreamReader<T>::Take(const StreamRef& stream) {
  absl::Status& status = stream->inbox().read_status();
  ReceivedMessageRef message;
  const StreamInbox::Taken taken = stream->inbox().Take(message);
  if (taken != StreamInbox::Taken::kMessage) {
    MI7_CHECK(taken == StreamInbox::Taken::kEnd, "what was ready stays so until it is taken");
    status = stream->inbox().end();
    if (!status.ok()) return status;
    return std::nullopt;
  }
  if (message->is_first && !message->message.extra().empty()) [[unlikely]] {
    if (absl::Status received = stream->ReceiveExtra(message->message); !received.ok()) {
      return status = std::move(received);
    }
  }
  if (const Interceptors* const interceptors = stream->interceptors()) [[unlikely]] {
    if (absl::Status end = InterceptIncoming(*interceptors, *stream.get(), message->message);
        !end.ok()) {
      stream->FailInput(end);
      return status = std::move(end);
    }
  }
  try {
    typename T::Reader root = message->body.template Root<T>(message->message, stream->limits());
    return StreamMessage<T>(std::move(message), root);
  } catch (...) {
    return status = stream->FailMalformed();
  }
}

template <typename T>
std::optional<typename StreamReader<T>::Result> StreamReader<T>::TryRead() {
  MI7_CHECK(stream_, "StreamReader: TryRead of an empty reader");
  if (!stream_->inbox().Ready()) return std::nullopt;
  return Take(stream_);
}

}  // namespace mi7
