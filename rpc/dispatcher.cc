#include "rpc/dispatcher.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "rpc/message_reader.h"
#include "rpc/server_call.h"

namespace mi7 {
namespace {

// nullptr when the service does not have it.
const MethodInfo* MethodOf(const Service& service, const transport::FrameHeader& header) {
  const InterfaceInfo* interface = FindInterface(service.interface_info(), header.interface_id);
  if (interface == nullptr || header.code >= interface->method_count) return nullptr;
  return &interface->methods[header.code];
}

// Of the interface or one that it extends.
const MethodInfo* MethodNamed(const InterfaceInfo& interface, absl::string_view name) {
  for (size_t i = 0; i < interface.method_count; ++i) {
    if (name == interface.methods[i].name) return &interface.methods[i];
  }
  for (size_t i = 0; i < interface.base_count; ++i) {
    if (const MethodInfo* found = MethodNamed(*interface.bases[i], name)) return found;
  }
  return nullptr;
}

// "handler of Calculator.add", for error messages.
std::string HandlerName(const Service& service, const transport::FrameHeader& header) {
  const MethodInfo* const method = MethodOf(service, header);
  return absl::StrCat("handler of ",
                      method != nullptr ? method->name : service.interface_info().name);
}

}  // namespace

absl::Status Dispatcher::Add(Service* service) {
  const InterfaceInfo& info = service->interface_info();
  Entry& entry = by_key_[ServiceKey(info.id)];
  if (entry.own) {
    return absl::AlreadyExistsError(
        absl::StrCat("service ", info.name, " cannot be added: ", entry.interface_name,
                     entry.service->interface_info().id == info.id ? " is already served"
                                                                   : " has the same service key"));
  }
  entry = Entry{service, true, info.name};
  names_.emplace_back(info.name);
  AddBases(service, info);
  shortcuts_ = {};
  for (const auto& [key, found] : by_key_) {
    Shortcut& shortcut = shortcuts_[key % shortcuts_.size()];
    // A service's own interface rather than one it extends.
    if (shortcut.entry == nullptr || found.own) shortcut = {key, &found};
  }
  return absl::OkStatus();
}

const Dispatcher::Entry* Dispatcher::FindSlow(uint32_t key) const {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : &found->second;
}

void Dispatcher::AddBases(Service* service, const InterfaceInfo& info) {
  for (size_t i = 0; i < info.base_count; ++i) {
    const InterfaceInfo& base = *info.bases[i];
    auto [found, inserted] =
        by_key_.try_emplace(ServiceKey(base.id), Entry{service, false, base.name});
    if (!inserted && !found->second.own && found->second.service != service) {
      found->second.service = nullptr;
    }
    AddBases(service, base);
  }
}

std::string Dispatcher::Names() const {
  return names_.empty() ? "no service" : absl::StrJoin(names_, ", ");
}

const MethodInfo* Dispatcher::FindMethod(const transport::FrameHeader& header) const {
  if (header.target != transport::TargetKind::kService) return nullptr;
  const Entry* const found = Find(header.target_id);
  return found != nullptr && found->service != nullptr ? MethodOf(*found->service, header)
                                                       : nullptr;
}

const MethodInfo* Dispatcher::FindMethodByName(absl::string_view name) const {
  for (const auto& [key, entry] : by_key_) {
    if (entry.service == nullptr) continue;
    if (const MethodInfo* found = MethodNamed(entry.service->interface_info(), name)) return found;
  }
  return nullptr;
}

Reply Dispatcher::Run(ServerCall& call) const noexcept {
  const transport::FrameHeader& header = call.header();
  if (header.target != transport::TargetKind::kService) {
    return absl::UnimplementedError(
        absl::StrCat("calls to target kind ", static_cast<int>(header.target),
                     " (capabilities, promised answers) are not supported"));
  }
  const Entry* const found = Find(header.target_id);
  if (found == nullptr) [[unlikely]] {
    return absl::UnimplementedError(
        absl::StrCat("no service for interface 0x",
                     absl::Hex(header.interface_id, absl::kZeroPad16), " (service key 0x",
                     absl::Hex(header.target_id, absl::kZeroPad8), "); this server has ", Names()));
  }
  Service* const service = found->service;
  if (service == nullptr) {
    return absl::UnimplementedError(absl::StrCat("several services of this server extend ",
                                                 found->interface_name,
                                                 "; call it through the stub of one of ", Names()));
  }
  try {
    return service->Dispatch(header.interface_id, header.code, call);
  } catch (...) {
    return StatusOfException(absl::StatusCode::kInvalidArgument, HandlerName(*service, header));
  }
}

}  // namespace mi7
