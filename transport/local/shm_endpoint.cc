#include "transport/local/shm_endpoint.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/local/peer_policy.h"
#include "transport/local/runtime_dir.h"
#include "transport/shm/shm_connector.h"
#include "transport/shm/shm_listener.h"
#include "transport/shm/shm_terms.h"

namespace mi7::transport {
namespace {

ShmTerms TermsOf(const TransportOptions& options) {
  const std::shared_ptr<const LocalOptions>& local = options.local;
  return {
      .unix_options = UnixOptionsOf(*local),
      .trusts = [local](const PeerCredentials& peer) { return IsTrusted(local->peers, peer); },
      .memory = std::shared_ptr<const ShmOptions>(local, &local->shm),
  };
}

Endpoint ShmAt(const std::string& path) {
  Endpoint endpoint;
  endpoint.scheme = Endpoint::Scheme::kShm;
  endpoint.path = path;
  return endpoint;
}

absl::StatusOr<std::unique_ptr<Listener>> ListenAtRendezvous(SocketFile file,
                                                             const std::vector<EventLoop*>& loops,
                                                             const TransportOptions& options,
                                                             AcceptCallback on_accept) {
  const std::string path = file.path();
  return ShmListenOn(std::move(file), path, ShmAt(path), loops, options, TermsOf(options),
                     std::move(on_accept));
}

void ConnectAtRendezvous(UniqueFd socket, const std::string& path, EventLoop* loop,
                         const TransportOptions& options, Deadline deadline,
                         StreamHandshake::Done done) {
  // That it is the right server is worth a Unix socket, too.
  ShmConnectTo({.path = path, .socket = std::move(socket), .endpoint = ShmAt(path).ToString()},
               ShmNeed::kPreferred, loop, options, TermsOf(options), deadline, std::move(done));
}

absl::Status Named(absl::string_view what, const Endpoint& endpoint, const absl::Status& why) {
  return absl::Status(why.code(),
                      absl::StrCat(what, " ", endpoint.ToString(), ": ", why.message()));
}

}  // namespace

UnixOptions UnixOptionsOf(const LocalOptions& local) {
  return {.mode = local.socket_mode, .admit = [policy = local.peers](const PeerCredentials& peer) {
            return CheckPeer(policy, peer);
          }};
}

const LocalCarrier& ShmCarrier() {
  static const auto& carrier = *new LocalCarrier{ListenAtRendezvous, ConnectAtRendezvous};
  return carrier;
}

absl::StatusOr<std::unique_ptr<Listener>> ListenAtShm(const Endpoint& endpoint,
                                                      const std::vector<EventLoop*>& loops,
                                                      const TransportOptions& options,
                                                      AcceptCallback on_accept) {
  if (!endpoint.path.empty()) {
    return ShmListen(endpoint, loops, options, TermsOf(options), std::move(on_accept));
  }
  absl::StatusOr<SocketFile> file = ListenInRuntimeDir(
      *options.local, ShmSocketName(endpoint.name), options.local->socket_mode, options.take_over);
  if (!file.ok()) return Named("listening on", endpoint, file.status());
  const std::string path = file->path();
  return ShmListenOn(*std::move(file), path, endpoint, loops, options, TermsOf(options),
                     std::move(on_accept));
}

void ConnectToShm(const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                  Deadline deadline, ConnectCallback done) {
  if (!endpoint.path.empty()) {
    ShmConnect(endpoint, loop, options, TermsOf(options), deadline, std::move(done));
    return;
  }
  loop->Post([endpoint, loop, options, deadline, done = std::move(done)]() mutable {
    std::string path;
    absl::StatusOr<UniqueFd> socket =
        ConnectInRuntimeDir(*options.local, ShmSocketName(endpoint.name),
                            absl::StrCat("server of ", endpoint.ToString()), path);
    if (!socket.ok()) {
      // That there is none now says nothing of the next moment.
      absl::Status why = Named("connecting to", endpoint, socket.status());
      done(absl::IsNotFound(why) ? absl::UnavailableError(why.message()) : why);
      return;
    }
    ShmConnectTo({.path = path, .socket = *std::move(socket), .endpoint = endpoint.ToString()},
                 ShmNeed::kRequired, loop, options, TermsOf(options), deadline,
                 [done = std::move(done)](absl::StatusOr<StreamMade> made) mutable {
                   if (made.ok()) {
                     done(std::move(made->connection));
                   } else {
                     done(std::move(made).status());
                   }
                 });
  });
}

}  // namespace mi7::transport
