#pragma once

// Dispatcher: finds the service a call is addressed to and runs its handler.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "rpc/reply.h"
#include "rpc/service.h"
#include "transport/frame.h"

namespace mi7 {

// Filled before the server starts, constant afterwards; Run is thread-safe then.
class Dispatcher {
 public:
  // `service` must outlive the dispatcher. It answers for its own interface, and for each one it
  // extends as long as no other service does: an interface that two services extend can be called
  // through their own stubs only.
  // ALREADY_EXISTS: a service with this interface, or one whose key collides, is registered.
  absl::Status Add(Service* service);

  // Runs the handler that `call.header()` names. Never throws: an exception of the handler becomes
  // INTERNAL, a malformed message INVALID_ARGUMENT, both naming the method.
  Reply Run(ServerCall& call) const noexcept;

  size_t service_count() const { return names_.size(); }

 private:
  struct Entry {
    Service* service = nullptr;  // nullptr: several services extend it
    bool own = false;            // the service's own interface, not one it extends
    const char* interface_name = nullptr;
  };
  void AddBases(Service* service, const InterfaceInfo& info);
  std::string Names() const;

  absl::flat_hash_map<uint32_t, Entry> by_key_;
  std::vector<std::string> names_;
};

}  // namespace mi7
