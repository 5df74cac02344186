#pragma once

// How a handshake over a Unix socket ends in a shared-memory connection.

#include <functional>
#include <memory>
#include <string>

#include "transport/shm/shm_terms.h"
#include "transport/stream/stream_context.h"
#include "transport/transports.h"

namespace mi7::transport {

// What StreamTerms::make_upgrade is to be. `endpoint`: what was listened on or is connected to, as
// ConnectionInfo gives it.
std::function<std::unique_ptr<StreamUpgrade>()> ShmUpgrades(const ShmTerms& terms,
                                                            const TransportOptions& options,
                                                            std::string endpoint);

}  // namespace mi7::transport
