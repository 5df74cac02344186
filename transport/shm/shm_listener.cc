#include "transport/shm/shm_listener.h"

#include <utility>

#include "transport/shm/shm_upgrade.h"
#include "transport/unix/unix_kind.h"
#include "transport/unix/unix_listener.h"

namespace mi7::transport {
namespace {

StreamTerms TermsFor(const ShmTerms& terms, const TransportOptions& options,
                     const Endpoint& endpoint) {
  StreamTerms stream;
  stream.instance_id = options.instance_id;
  stream.admit = AdmitPeers(terms.unix_options.admit);
  stream.make_upgrade = ShmUpgrades(terms, options, endpoint.ToString());
  return stream;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Listener>> ShmListen(const Endpoint& endpoint,
                                                    const std::vector<EventLoop*>& loops,
                                                    const TransportOptions& options,
                                                    const ShmTerms& terms,
                                                    AcceptCallback on_accept) {
  if (absl::Status sound = CheckShmOptions(*terms.memory); !sound.ok()) return sound;
  absl::StatusOr<SocketFile> file =
      MakeSocketFile(endpoint, endpoint.path, terms.unix_options, options.take_over);
  if (!file.ok()) return file.status();
  return UnixListenOn(*std::move(file), endpoint.path, endpoint, TermsFor(terms, options, endpoint),
                      loops, options, std::move(on_accept));
}

absl::StatusOr<std::unique_ptr<Listener>> ShmListenOn(SocketFile file, const std::string& path,
                                                      const Endpoint& endpoint,
                                                      const std::vector<EventLoop*>& loops,
                                                      const TransportOptions& options,
                                                      const ShmTerms& terms,
                                                      AcceptCallback on_accept) {
  if (absl::Status sound = CheckShmOptions(*terms.memory); !sound.ok()) return sound;
  return UnixListenOn(std::move(file), path, endpoint, TermsFor(terms, options, endpoint), loops,
                      options, std::move(on_accept));
}

}  // namespace mi7::transport
