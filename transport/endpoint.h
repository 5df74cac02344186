#pragma once

// Endpoints: where a server listens and a channel connects.
//
//   tcp:host:port       one TCP address; host is a name, an IPv4 address or an IPv6 address in
//                       brackets (tcp:[::1]:4711, tcp:[fe80::1%eth0]:4711). To listen: port 0
//                       picks a free one, an empty host or * means every address of the machine.
//   mi7://host:port     the best transport to that server. Today that is TCP.
//   inproc:name         a server in the same process. Name: 1 to 100 of [A-Za-z0-9_.-].

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mi7::transport {

// A parsed endpoint; a value type.
struct Endpoint {
  enum class Scheme { kTcp, kMi7, kInproc };
  Scheme scheme = Scheme::kTcp;
  std::string host;   // kTcp, kMi7: without brackets; "" for every address
  uint16_t port = 0;  // kTcp, kMi7
  std::string name;   // kInproc

  // INVALID_ARGUMENT with the text, the position or part that is wrong, and the expected form.
  static absl::StatusOr<Endpoint> Parse(absl::string_view text);
  // Inverse of Parse.
  std::string ToString() const;

  // INVALID_ARGUMENT when one can only listen on this endpoint: to connect takes a host and a port
  // that is not 0.
  absl::Status CheckConnectable() const;

  friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

}  // namespace mi7::transport
