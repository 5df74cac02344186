#pragma once

// Stub: the base of every generated client.

#include <memory>
#include <utility>

#include "rpc/call_options.h"
#include "rpc/channel.h"
#include "rpc/client_streams.h"
#include "rpc/interface_info.h"
#include "rpc/request.h"

namespace mi7 {

// Cheap to copy; shares the channel. Thread-safe: many threads may make calls through one stub.
class Stub {
 public:
  explicit Stub(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}

  const std::shared_ptr<Channel>& channel() const { return channel_; }

 protected:
  ~Stub() = default;
  Stub(const Stub&) = default;
  Stub& operator=(const Stub&) = default;

  ClientCallRef NewCall(const InterfaceInfo& service, const MethodInfo& method,
                        const CallOptions& options) const {
    return ClientCallRef(Channel::NewCall(channel_, service, method, options));
  }
  // A new request for `method` (declared by `service` or an interface it extends).
  template <typename P, typename R>
  Request<P, R> NewRequest(const InterfaceInfo& service, const MethodInfo& method,
                           const CallOptions& options) const {
    return Request<P, R>(NewCall(service, method, options));
  }
  // The same for streaming methods: a request that is sent with the user's parameters, and streams
  // that begin at once.
  template <typename P, typename R>
  StreamRequest<P, R> NewStreamRequest(const InterfaceInfo& service, const MethodInfo& method,
                                       const CallOptions& options) const {
    return StreamRequest<P, R>(NewCall(service, method, options));
  }
  template <typename P, typename R>
  ClientStream<P, R> OpenClientStream(const InterfaceInfo& service, const MethodInfo& method,
                                      const CallOptions& options) const {
    return ClientStream<P, R>(NewCall(service, method, options));
  }
  template <typename P, typename R>
  BidiStream<P, R> OpenBidiStream(const InterfaceInfo& service, const MethodInfo& method,
                                  const CallOptions& options) const {
    return BidiStream<P, R>(NewCall(service, method, options));
  }

 private:
  std::shared_ptr<Channel> channel_;
};

}  // namespace mi7
