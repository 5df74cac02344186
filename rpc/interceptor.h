#pragma once

// Interceptors: what runs around every call of a channel or a server, whatever its method: logs,
// measurements, tracing, authentication. Those that mi7 brings: rpc/interceptors/.
//
//   class Stamp final : public mi7::Interceptor {
//     void OnStart(mi7::InterceptedCall& call) override {
//       call.EditMetadata().Add("build", kBuild);
//     }
//     void OnEnd(mi7::InterceptedCall& call) override {
//       Count(call.method().name, call.status().code(), call.elapsed());
//     }
//   };
//   options.interceptors = {std::make_shared<Stamp>()};  // ChannelOptions or ServerOptions
//
// The first interceptor of a list is the outermost: its OnStart runs first, its OnEnd last.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <capnp/any.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/interface_info.h"
#include "rpc/metadata.h"
#include "rpc/trace_context.h"

namespace mi7 {

// One call as an interceptor sees it, the same on both sides. Valid inside the hooks, on their
// thread; so are all readers and builders that it gives.
class InterceptedCall {
 public:
  enum class Side : uint8_t { kClient, kServer };

  virtual Side side() const = 0;
  // What the schema says of it; kUnknownMethod when the server has no such method.
  virtual const MethodInfo& method() const = 0;
  // Client: the channel's endpoint, as it was given. Server: the client ("tcp:127.0.0.1:40312").
  virtual std::string peer() const = 0;
  // Since OnStart of the first interceptor.
  virtual absl::Duration elapsed() const = 0;

  // --- What goes along with the request. To be changed in OnStart only; and the parameters are to
  // be read there only, since the client does not keep them.

  // On the client it is sent, on the server the handler gets it.
  virtual const Metadata& metadata() const = 0;
  virtual Metadata& EditMetadata() = 0;
  // nullptr: none.
  virtual std::shared_ptr<const TraceContext> trace() const = 0;
  virtual void set_trace(std::shared_ptr<const TraceContext> trace) = 0;
  virtual Deadline deadline() const = 0;
  virtual void set_deadline(Deadline deadline) = 0;
  // The parameters, whose type must be P. Reading malformed ones throws kj::Exception, which ends
  // the call as it does in a handler.
  template <typename P>
  typename P::Reader Params() {
    return ParamsRoot().getAs<P>();
  }
  // To change them. On the server this copies them, once.
  template <typename P>
  typename P::Builder EditParams() {
    return EditParamsRoot().getAs<P>();
  }

  // --- What comes back. In OnEnd.

  // How the call ended, as far as the interceptors inside this one left it.
  virtual const absl::Status& status() const = 0;
  // On the server it is sent, on the client the caller gets it (CallOptions::received).
  virtual ResponseMetadata& response_metadata() = 0;
  // The results of an OK call, whose type must be R.
  template <typename R>
  typename R::Reader Results() {
    return ResultsRoot().getAs<R>();
  }
  // To change them. On the client this copies them, once.
  template <typename R>
  typename R::Builder EditResults() {
    return EditResultsRoot().getAs<R>();
  }

  // --- To end the call. In OnStart it goes no further: neither to the interceptors inside this one
  // nor to the other side or the handler; OnEnd follows. In OnEnd this is how it ended.

  // With `status`, which is not OK.
  virtual void Fail(absl::Status status) = 0;
  // With OK and results of type R, which the caller of Answer fills before its hook returns.
  template <typename R>
  typename R::Builder Answer() {
    return NewResultsRoot().initAs<R>();
  }

  // What this interceptor keeps of this call from OnStart to OnEnd: a T, always the same type, made
  // by the first use. One heap allocation; an interceptor that keeps nothing costs none.
  template <typename T>
  T& State() {
    std::unique_ptr<StateHolder>& slot = StateSlot();
    if (slot == nullptr) slot = std::make_unique<StateOf<T>>();
    return static_cast<StateOf<T>&>(*slot).value;
  }
  // The same if there is one, else nullptr.
  template <typename T>
  T* FindState() {
    StateHolder* const found = FoundState();
    return found != nullptr ? &static_cast<StateOf<T>&>(*found).value : nullptr;
  }

 protected:
  struct StateHolder {
    virtual ~StateHolder() = default;
  };
  template <typename T>
  struct StateOf final : StateHolder {
    T value{};
  };
  ~InterceptedCall() = default;

 private:
  virtual capnp::AnyPointer::Reader ParamsRoot() = 0;
  virtual capnp::AnyPointer::Builder EditParamsRoot() = 0;
  virtual capnp::AnyPointer::Reader ResultsRoot() = 0;
  virtual capnp::AnyPointer::Builder EditResultsRoot() = 0;
  virtual capnp::AnyPointer::Builder NewResultsRoot() = 0;
  virtual std::unique_ptr<StateHolder>& StateSlot() = 0;
  virtual StateHolder* FoundState() = 0;
};

// One message of a streaming call as an interceptor sees it. Valid inside the hook, on its thread;
// so are all readers and builders that it gives.
class InterceptedMessage {
 public:
  virtual InterceptedCall::Side side() const = 0;
  // Whether this side sends it; else this side has received it.
  virtual bool outgoing() const = 0;
  virtual const MethodInfo& method() const = 0;

  // The message, whose type must be T. Reading a malformed one throws kj::Exception, which fails it
  // as it would fail the user's read.
  template <typename T>
  typename T::Reader Get() {
    return Root().getAs<T>();
  }
  // To change it. One that was received is copied, once.
  template <typename T>
  typename T::Builder Edit() {
    return EditRoot().getAs<T>();
  }
  // It goes no further: an outgoing one is not sent, its Write ends with `status`, which is not OK,
  // and the stream goes on; for a received one the user's read ends with `status`, and the stream,
  // as far as it is received, is over (at the client: the call is cancelled).
  virtual void Fail(absl::Status status) = 0;

 protected:
  ~InterceptedMessage() = default;

 private:
  virtual capnp::AnyPointer::Reader Root() = 0;
  virtual capnp::AnyPointer::Builder EditRoot() = 0;
};

// The method of calls that the server knows nothing about.
inline constexpr MethodInfo kUnknownMethod = {0, 0, "unknown"};

// Thread-safe: hooks run for many calls at the same time. For one call OnStart comes first, then,
// exactly once and never at the same time, OnEnd.
//
// OnStart runs where the call begins: inside Send() on the client, on the thread that drives the
// connection on the server. OnEnd runs where it ends, which on the client can be any thread:
// before the caller's Wait returns or its callback runs, after a cancellation and a passed deadline
// as well. Neither may block or make blocking calls. An exception fails the call as it would in a
// handler (INTERNAL, or INVALID_ARGUMENT for malformed parameters on the server).
//
// OnMessage runs for each message of a stream that is written, inside Write(), and for each that is
// read, when the user takes it; on any thread, for both directions of a call at the same time, and
// for what has arrived before the end also during and after OnEnd. It comes after OnStart. What
// goes to the callee meets the first interceptor first, at both ends, and what comes back the last.
class Interceptor {
 public:
  virtual ~Interceptor() = default;
  virtual void OnStart(InterceptedCall&) {}
  // Of each call whose OnStart ran.
  virtual void OnEnd(InterceptedCall&) {}
  virtual void OnMessage(InterceptedMessage&) {}
};

// The first is the outermost.
using Interceptors = std::vector<std::shared_ptr<Interceptor>>;

}  // namespace mi7
