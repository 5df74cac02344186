#pragma once

// Endpoints: where a server listens and a channel connects.
//
//   tcp:host:port       one TCP address; host is a name, an IPv4 address or an IPv6 address in
//                       brackets (tcp:[::1]:4711, tcp:[fe80::1%eth0]:4711). To listen: port 0
//                       picks a free one, an empty host or * means every address of the machine.
//   mi7://host:port     the best transport to that server: shared memory when it is on this machine
//                       and lets us, otherwise TCP (transport/local/).
//   unix:/path          a stream over a Unix socket, at an absolute path of at most 107 bytes
//                       without control characters that does not end in / or /. or /..
//   shm:name            shared memory, met at the Unix socket shm-NAME.sock in the runtime
//                       directory (transport/local/runtime_dir.h). Name: 1 to 100 of
//                       [A-Za-z0-9_.-].
//   shm:/path           shared memory, met at a Unix socket at such a path.
//   inproc:name         a server in the same process. Name as above.
//
// There is no form for Linux's abstract sockets: no permissions guard their names.

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mi7::transport {

// A parsed endpoint; a value type.
struct Endpoint {
  enum class Scheme { kTcp, kMi7, kInproc, kUnix, kShm };
  Scheme scheme = Scheme::kTcp;
  std::string host;       // kTcp, kMi7: without brackets; "" for every address
  uint16_t port = 0;      // kTcp, kMi7
  std::string name;       // kInproc, kShm; "" when kShm has a path
  std::string path = {};  // kUnix, kShm: absolute; "" when kShm has a name

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
