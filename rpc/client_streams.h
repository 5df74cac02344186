#pragma once

// The typed handles of streaming calls at the end that makes them: what a generated stub returns.
//
//   auto request = stub.Watch();                       // server streaming
//   request->setPrefix("a");
//   auto reader = request.Send();
//
//   auto upload = stub.Upload();                       // client streaming
//   upload.Write(std::move(message)).Wait(); ...
//   auto response = upload.Finish().Wait();
//
//   auto chat = stub.Chat();                           // bidirectional
//   chat.writer().Write(std::move(message)).Wait(); ...
//   auto message = chat.reader().Read().Wait();
//
// Reading and writing: stream_reader.h, stream_writer.h. Dropping a handle before its stream is
// over cancels the call. A deadline is the whole stream's. Each handle keeps the channel alive.
//
// A stream that was not sent, or was refused, is made again by itself, unless CallOptions::repeat
// is kNever, with all that was written to it (docs/RETRIES.md).

#include <utility>

#include "base/check.h"
#include "rpc/caller_stream.h"
#include "rpc/client_call.h"
#include "rpc/request.h"
#include "rpc/stream_reader.h"
#include "rpc/stream_writer.h"

namespace mi7 {

// The request of a server-streaming call, under construction. `request->` reaches the parameters'
// Builder.
template <typename P, typename R>
class [[nodiscard]] StreamRequest {
 public:
  explicit StreamRequest(ClientCallRef call)
      : call_(std::move(call)), params_(call_->request().template initRoot<P>()) {}
  StreamRequest(StreamRequest&&) noexcept = default;
  StreamRequest& operator=(StreamRequest&&) noexcept = default;

  typename P::Builder* operator->() {
    MI7_CHECK(call_, "StreamRequest: used after Send or a move");
    return &params_;
  }
  typename P::Builder& operator*() { return *operator->(); }

  // Sends the request; the Builder must not be used any more. Once. Never blocks: what goes wrong
  // is the stream's end.
  StreamReader<R> Send() {
    MI7_CHECK(call_ && !call_->started(), "StreamRequest::Send called twice or after a move");
    return StreamReader<R>(CallerStream::Open(std::move(call_)), /*cancels=*/true);
  }

 private:
  ClientCallRef call_;
  typename P::Builder params_;
};

// A client-streaming call. Move-only, used by one thread at a time.
template <typename P, typename R>
class [[nodiscard]] ClientStream {
 public:
  explicit ClientStream(ClientCallRef call)
      : call_(call.Share()), writer_(CallerStream::Open(std::move(call))) {}
  ClientStream(ClientStream&&) noexcept = default;
  ClientStream& operator=(ClientStream&&) noexcept = default;
  ~ClientStream() {
    if (call_) call_->Cancel();
  }

  StreamWriter<P>& writer() { return writer_; }
  StreamDraft<P> NewMessage() { return writer_.NewMessage(); }
  StreamWriting Write(StreamDraft<P>&& draft) { return writer_.Write(std::move(draft)); }

  // Closes the writer; the call's answer may have come before. Once; the stream is empty
  // afterwards.
  PendingCall<R> Finish() {
    MI7_CHECK(call_, "ClientStream: Finish called twice or after a move");
    writer_.Close();
    writer_ = StreamWriter<P>();
    return PendingCall<R>(std::move(call_));
  }

  // Ends the call with CANCELLED unless it is over; the server is told.
  void Cancel() {
    if (call_) canceller().Cancel();
  }
  CallCanceller canceller() const { return call_ ? CallCanceller(call_.get()) : CallCanceller(); }

 private:
  ClientCallRef call_;
  StreamWriter<P> writer_;
};

// A bidirectional call. Move-only. Reader and writer are used independently, by two threads or
// coroutines at once, and must not outlive it.
template <typename P, typename R>
class [[nodiscard]] BidiStream {
 public:
  explicit BidiStream(ClientCallRef call) : stream_(CallerStream::Open(std::move(call))) {
    reader_ = StreamReader<R>(stream_.Share());
    writer_ = StreamWriter<P>(stream_.Share());
  }
  BidiStream(BidiStream&&) noexcept = default;
  BidiStream& operator=(BidiStream&&) noexcept = default;
  ~BidiStream() {
    if (stream_) stream_->call()->Cancel();
  }

  StreamReader<R>& reader() { return reader_; }
  StreamWriter<P>& writer() { return writer_; }

  void Cancel() { reader_.Cancel(); }
  CallCanceller canceller() const { return reader_.canceller(); }

 private:
  StreamRef stream_;
  StreamReader<R> reader_;
  StreamWriter<P> writer_;
};

}  // namespace mi7
