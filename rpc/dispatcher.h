#pragma once

// Dispatcher: finds the service a call is addressed to and runs its handler.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "rpc/reply.h"
#include "rpc/service.h"
#include "transport/frame.h"

namespace mi7 {

// Filled before the server starts, constant afterwards; Run is thread-safe then.
class Dispatcher {
 public:
  Dispatcher() = default;
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // `service` must outlive the dispatcher. It answers for its own interface, and for each one it
  // extends as long as no other service does: an interface that two services extend can be called
  // through their own stubs only.
  // ALREADY_EXISTS: a service with this interface, or one whose key collides, is registered.
  absl::Status Add(Service* service);

  // Runs the handler that `call.header()` names. Never throws: an exception of the handler becomes
  // INTERNAL, a malformed message INVALID_ARGUMENT, both naming the method.
  Reply Run(ServerCall& call) const noexcept;

  // The method that a call's header names; nullptr when no service has it.
  const MethodInfo* FindMethod(const transport::FrameHeader& header) const;

  // The method with this name, as MethodInfo has it ("Calculator.add"); nullptr when no service has
  // it.
  const MethodInfo* FindMethodByName(absl::string_view name) const;

  size_t service_count() const { return names_.size(); }

 private:
  struct Entry {
    Service* service = nullptr;  // nullptr: several services extend it
    bool own = false;            // the service's own interface, not one it extends
    const char* interface_name = nullptr;
  };
  void AddBases(Service* service, const InterfaceInfo& info);
  std::string Names() const;
  // What by_key_ has for `key`, or nullptr.
  const Entry* Find(uint32_t key) const {
    const Shortcut& shortcut = shortcuts_[key % shortcuts_.size()];
    if (shortcut.entry != nullptr && shortcut.key == key) [[likely]]
      return shortcut.entry;
    return FindSlow(key);
  }
  const Entry* FindSlow(uint32_t key) const;

  absl::flat_hash_map<uint32_t, Entry> by_key_;
  // One entry of by_key_ for each key modulo their number: most servers find all of theirs here,
  // without hashing. Made anew by Add.
  struct Shortcut {
    uint32_t key = 0;
    const Entry* entry = nullptr;
  };
  std::array<Shortcut, 16> shortcuts_;
  std::vector<std::string> names_;
};

}  // namespace mi7
