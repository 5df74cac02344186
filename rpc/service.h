#pragma once

// Service: the base of every generated service skeleton.

#include <cstdint>

#include "rpc/interface_info.h"
#include "rpc/reply.h"

namespace mi7 {

// A Service's handlers run on the event loops of the server that it is added to, so calls of
// different connections run concurrently when the server has several loops; calls of one
// connection start in their order and do not overlap until a handler defers or awaits.
// A handler that blocks holds up every connection of its loop.
class Service {
 public:
  virtual ~Service() = default;

  virtual const InterfaceInfo& interface_info() const = 0;

  // Runs the method that interface `interface_id` (this service's own or one it extends) declares
  // with ordinal `method_id`. A method it does not have gives UnknownMethod(...). May throw.
  virtual Reply Dispatch(uint64_t interface_id, uint16_t method_id, ServerCall& call) = 0;
};

// UNIMPLEMENTED, for a method that the skeleton knows and the service does not override.
Reply Unimplemented(const InterfaceInfo& service, const MethodInfo& method);

// UNIMPLEMENTED, for a streaming method that is called by a mi7 without streams.
Reply NeedsStreams(const MethodInfo& method);

// UNIMPLEMENTED, for a method that the skeleton does not know.
Reply UnknownMethod(const InterfaceInfo& service, uint64_t interface_id, uint16_t method_id);

// Finds interface `interface_id` among `info` and what it extends; nullptr when absent.
const InterfaceInfo* FindInterface(const InterfaceInfo& info, uint64_t interface_id);

}  // namespace mi7
