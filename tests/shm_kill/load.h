#pragma once

// Typed calls of all sizes that a client makes until it is told to stop, or killed, and the service
// that answers them; both write into the ledger what they did.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "rpc/channel.h"
#include "rpc/server.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::shm_kill {

// Counts each run.
class LedgerService final : public conformance::ProbeService {
 public:
  Reply Echo(ServerContext& context, conformance::Probe::EchoParams::Reader params,
             conformance::Probe::EchoResults::Builder results) override;
};

// Of test and processes: little memory for messages, so that it runs short, and a hasty backoff.
ChannelOptions ClientOptions();
ServerOptions TheServerOptions();

// What a client makes of a call's end.
void Record(uint32_t call, const conformance::EchoResult& result);

// Makes calls with a blocking thread and with callbacks until `stop`. The first ones wait for a
// server, until one of them succeeds, which `first_ok` says. When this returns every call has
// ended.
void MakeCalls(const std::shared_ptr<Channel>& channel, uint64_t seed, std::atomic<bool>& stop,
               std::atomic<bool>& first_ok);

}  // namespace mi7::shm_kill
