#pragma once

// The conformance suite's way to a transport whose connections have faults (transport/fault).

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "tests/conformance/connection_conformance.h"
#include "transport/fault/fault_connection.h"

namespace mi7::transport::conformance {

// How many connections of WithFaults were made in this process.
inline std::atomic<size_t> faulted_connections{0};

// `inner`, with both ends of every connection decorated. Seeds count up from `faults.seed`.
inline TransportCase WithFaults(TransportCase inner, std::string name, fault::Options faults) {
  auto next_seed = std::make_shared<std::atomic<uint64_t>>(faults.seed);
  const auto decorate = [faults, next_seed](std::shared_ptr<Connection> connection, EventLoop* loop,
                                            const Limits& limits, bool accepted) {
    fault::Options options = faults;
    options.seed = next_seed->fetch_add(1);
    options.limits = limits;
    options.accepted = accepted;
    return fault::Decorate(std::move(connection), loop, options);
  };
  TransportCase transport = inner;
  transport.name = std::move(name);
  transport.late = true;
  transport.listen = [inner, decorate](const Endpoint& endpoint,
                                       const std::vector<EventLoop*>& loops,
                                       const TransportOptions& options, AcceptCallback on_accept) {
    return inner.listen(endpoint, loops, options,
                        [decorate, loop = loops[0], limits = options.limits,
                         on_accept = std::move(on_accept)](std::shared_ptr<Connection> connection) {
                          on_accept(decorate(std::move(connection), loop, limits, true));
                        });
  };
  transport.connect = [inner, decorate](const Endpoint& endpoint, EventLoop* loop,
                                        const TransportOptions& options, Deadline deadline,
                                        ConnectCallback done) {
    inner.connect(endpoint, loop, options, deadline,
                  [decorate, loop, limits = options.limits, done = std::move(done)](
                      absl::StatusOr<std::shared_ptr<Connection>> connection) mutable {
                    if (connection.ok()) {
                      faulted_connections.fetch_add(1, std::memory_order_relaxed);  // A statistic.
                      connection = decorate(*std::move(connection), loop, limits, false);
                    }
                    done(std::move(connection));
                  });
  };
  return transport;
}

}  // namespace mi7::transport::conformance
