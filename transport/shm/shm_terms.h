#pragma once

// What shared-memory listeners and connectors need besides TransportOptions.

#include <functional>
#include <memory>

#include "transport/shm/shm_options.h"
#include "transport/unix/unix_options.h"

namespace mi7::transport {

// A value type.
struct ShmTerms {
  // Of the Unix socket at which the two sides meet.
  UnixOptions unix_options;
  // Whether the payloads of a peer are read in place; see ShmMade::trusted. Empty: those of our own
  // effective user are.
  std::function<bool(const PeerCredentials& peer)> trusts;
  // Never null; must be sound (CheckShmOptions).
  std::shared_ptr<const ShmOptions> memory = std::make_shared<const ShmOptions>();
};

}  // namespace mi7::transport
