#include "rpc/service.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace mi7 {

Reply Unimplemented(const InterfaceInfo& service, const MethodInfo& method) {
  return absl::UnimplementedError(
      absl::StrCat("service ", service.name, " does not implement ", method.name));
}

Reply NeedsStreams(const MethodInfo& method) {
  return absl::UnimplementedError(
      absl::StrCat(method.name, " is a stream, and the caller's mi7 knows no streams"));
}

Reply UnknownMethod(const InterfaceInfo& service, uint64_t interface_id, uint16_t method_id) {
  const InterfaceInfo* interface = FindInterface(service, interface_id);
  if (interface == nullptr) {
    return absl::UnimplementedError(absl::StrCat("service ", service.name,
                                                 " does not have interface 0x",
                                                 absl::Hex(interface_id, absl::kZeroPad16)));
  }
  return absl::UnimplementedError(absl::StrCat("interface ", interface->name, " of service ",
                                               service.name, " has no method @", method_id,
                                               " (it has ", interface->method_count, ")"));
}

const InterfaceInfo* FindInterface(const InterfaceInfo& info, uint64_t interface_id) {
  if (info.id == interface_id) return &info;
  for (size_t i = 0; i < info.base_count; ++i) {
    if (const InterfaceInfo* found = FindInterface(*info.bases[i], interface_id)) return found;
  }
  return nullptr;
}

}  // namespace mi7
