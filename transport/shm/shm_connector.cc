#include "transport/shm/shm_connector.h"

#include <utility>

#include "transport/shm/shm_upgrade.h"
#include "transport/unix/unix_kind.h"

namespace mi7::transport {

void ShmConnectTo(UnixTarget target, ShmNeed need, EventLoop* loop, const TransportOptions& options,
                  const ShmTerms& terms, Deadline deadline, StreamHandshake::Done done) {
  if (absl::Status sound = CheckShmOptions(*terms.memory); !sound.ok()) {
    loop->Post(
        [sound = std::move(sound), done = std::move(done)]() mutable { done(std::move(sound)); });
    return;
  }
  StreamTerms stream;
  stream.instance_id = options.instance_id;
  stream.admit = AdmitPeers(terms.unix_options.admit);
  stream.make_upgrade = ShmUpgrades(terms, options, target.endpoint);
  stream.upgrade_required = need == ShmNeed::kRequired;
  UnixConnectTo(std::move(target), std::move(stream), loop, options, deadline, std::move(done));
}

void ShmConnect(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                const ShmTerms& terms, Deadline deadline, ConnectCallback done) {
  ShmConnectTo({.path = endpoint.path, .socket = {}, .endpoint = endpoint.ToString()},
               ShmNeed::kRequired, loop, options, terms, deadline,
               [done = std::move(done)](absl::StatusOr<StreamMade> made) mutable {
                 if (made.ok()) {
                   done(std::move(made->connection));
                 } else {
                   done(std::move(made).status());
                 }
               });
}

}  // namespace mi7::transport
