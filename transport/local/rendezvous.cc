#include "transport/local/rendezvous.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "transport/local/runtime_dir.h"
#include "transport/tcp/tcp_connector.h"
#include "transport/tcp/tcp_listener.h"

namespace mi7::transport {
namespace {

// What a rendezvous may take to answer. The server has just answered over TCP.
constexpr absl::Duration kPatience = absl::Seconds(1);

constexpr absl::string_view kSwitchedOff = "it is switched off (LocalOptions::shared_memory)";

std::string SocketName(const InstanceId& id) { return absl::StrCat(id.ToString(), ".sock"); }

// --- Listening ---

class RendezvousListener final : public Listener {
 public:
  // `local`: null when there is none, for the reason in `meeting`; otherwise that is where it is.
  RendezvousListener(std::unique_ptr<Listener> tcp, std::unique_ptr<Listener> local,
                     std::string meeting)
      : tcp_(std::move(tcp)), local_(std::move(local)), meeting_(std::move(meeting)) {}

  const Endpoint& endpoint() const override { return tcp_->endpoint(); }

  std::string Describe() const override {
    return absl::StrCat(
        endpoint().ToString(),
        local_ != nullptr ? " (TCP, and shared memory at " : " (TCP alone; no shared memory: ",
        meeting_, ")");
  }

  void Close() override {
    // Clients that come between find no rendezvous, and then no server.
    if (local_ != nullptr) local_->Close();
    tcp_->Close();
  }

 private:
  const std::unique_ptr<Listener> tcp_;
  const std::unique_ptr<Listener> local_;
  const std::string meeting_;
};

// Where it is in `meeting`.
absl::StatusOr<std::unique_ptr<Listener>> ListenLocally(const LocalCarrier& carrier,
                                                        const std::vector<EventLoop*>& loops,
                                                        const TransportOptions& options,
                                                        const AcceptCallback& on_accept,
                                                        std::string& meeting) {
  if (!options.local->shared_memory) return absl::FailedPreconditionError(kSwitchedOff);
  if (!options.instance_id) {
    return absl::UnavailableError("the system has no random numbers yet for the rendezvous' name");
  }
  absl::StatusOr<SocketFile> file = ListenInRuntimeDir(
      *options.local, SocketName(options.instance_id), 0600, /*take_over=*/false);
  if (!file.ok()) return file.status();
  meeting = file->path();
  return carrier.listen(*std::move(file), loops, options, on_accept);
}

// --- Connecting ---

// Whether two ends of a TCP connection are on the same machine, by their endpoint texts. A server
// on another machine may be anybody, and could name a server of this one.
bool OnThisMachine(const ConnectionInfo& info) {
  const absl::StatusOr<Endpoint> peer = Endpoint::Parse(info.peer);
  const absl::StatusOr<Endpoint> local = Endpoint::Parse(info.local);
  if (!peer.ok() || !local.ok()) return false;
  return peer->host == local->host || absl::StartsWith(peer->host, "127.") || peer->host == "::1";
}

// One attempt. Loop thread only, once it has begun; callbacks keep it.
class Selection final : public std::enable_shared_from_this<Selection> {
 public:
  Selection(LocalCarrier carrier, EventLoop* loop, const TransportOptions& options,
            Deadline deadline, ExplainedConnectCallback done)
      : carrier_(std::move(carrier)),
        loop_(loop),
        options_(options),
        deadline_(deadline),
        done_(std::move(done)) {}

  void OnTcp(absl::StatusOr<StreamMade> made) {
    if (!made.ok()) {
      done_(std::move(made).status(), "");
      return;
    }
    tcp_ = *std::move(made);
    std::string path;
    absl::StatusOr<UniqueFd> socket = Meet(path);
    if (!socket.ok()) {
      StayOnTcp(socket.status().message());
      return;
    }
    carrier_.connect(*std::move(socket), path, loop_, options_,
                     std::min(deadline_, Deadline::After(kPatience)),
                     [self = shared_from_this(), path](absl::StatusOr<StreamMade> met) {
                       self->OnMet(path, std::move(met));
                     });
  }

 private:
  absl::StatusOr<UniqueFd> Meet(std::string& path) const {
    if (!options_.local->shared_memory) return absl::FailedPreconditionError(kSwitchedOff);
    if (!OnThisMachine(tcp_.connection->info())) {
      return absl::FailedPreconditionError("the server is on another machine");
    }
    if (!tcp_.peer) return absl::FailedPreconditionError("the server gives no name to meet it by");
    absl::StatusOr<UniqueFd> socket = ConnectInRuntimeDir(*options_.local, SocketName(tcp_.peer),
                                                          "rendezvous of this server", path);
    if (!absl::IsNotFound(socket.status())) return socket;
    return absl::NotFoundError(
        absl::StrCat(socket.status().message(),
                     " (it offers none, or is of another user or container, or has another runtime "
                     "directory)"));
  }

  void OnMet(const std::string& path, absl::StatusOr<StreamMade> met) {
    if (!met.ok() && options_.cancel.stop_requested()) {
      done_(std::move(met).status(), "");
    } else if (!met.ok()) {
      StayOnTcp(met.status().message());
    } else if (met->peer != tcp_.peer) {
      // Dropped with `met`.
      StayOnTcp(absl::StrCat("what listens at ", path, " is another server, named ",
                             met->peer ? met->peer.ToString() : "nothing"));
    } else {
      // The one over TCP was never started: dropping it closes it.
      tcp_.connection = nullptr;
      done_(std::move(met->connection), std::move(met->declined));
    }
  }

  void StayOnTcp(absl::string_view why) { done_(std::move(tcp_.connection), std::string(why)); }

  const LocalCarrier carrier_;
  EventLoop* const loop_;
  const TransportOptions options_;
  const Deadline deadline_;
  ExplainedConnectCallback done_;
  StreamMade tcp_;
};

}  // namespace

absl::StatusOr<SocketFile> ListenInRuntimeDir(const LocalOptions& options, const std::string& name,
                                              mode_t mode, bool take_over) {
  const absl::StatusOr<std::vector<std::string>> paths =
      RuntimeDirs(options.runtime_dir, RuntimeDirEnvironment::Current());
  if (!paths.ok()) return paths.status();
  absl::StatusOr<Directory> directory = MakeRuntimeDir(paths->front());
  if (!directory.ok()) return directory.status();
  return SocketFile::Listen(*std::move(directory), name,
                            {.mode = mode, .sweep = true, .take_over = take_over});
}

absl::StatusOr<UniqueFd> ConnectInRuntimeDir(const LocalOptions& options, const std::string& name,
                                             absl::string_view what, std::string& path) {
  const absl::StatusOr<std::vector<std::string>> paths =
      RuntimeDirs(options.runtime_dir, RuntimeDirEnvironment::Current());
  if (!paths.ok()) return paths.status();
  for (const std::string& candidate : *paths) {
    const absl::StatusOr<Directory> directory = OpenRuntimeDir(candidate);
    if (absl::IsNotFound(directory.status())) continue;
    if (!directory.ok()) return directory.status();
    absl::StatusOr<UniqueFd> socket = ConnectIn(*directory, name);
    if (absl::IsNotFound(socket.status())) continue;
    // Its server was killed, perhaps, and others before it: what they left is removed by whoever
    // finds it.
    if (absl::IsUnavailable(socket.status())) SweepStaleSockets(*directory);
    path = directory->PathOf(name);
    return socket;
  }
  return absl::NotFoundError(absl::StrCat("no ", what, " in ", absl::StrJoin(*paths, " or ")));
}

absl::StatusOr<std::unique_ptr<Listener>> RendezvousListen(const Endpoint& endpoint,
                                                           const LocalCarrier& carrier,
                                                           const std::vector<EventLoop*>& loops,
                                                           const TransportOptions& options,
                                                           AcceptCallback on_accept) {
  TransportOptions named = options;
  named.instance_id = InstanceId::Random();
  // First, so that no client that comes over TCP is too early.
  std::string meeting;
  absl::StatusOr<std::unique_ptr<Listener>> local =
      ListenLocally(carrier, loops, named, on_accept, meeting);
  absl::StatusOr<std::unique_ptr<Listener>> tcp =
      TcpListen(endpoint, loops, named, std::move(on_accept));
  if (!tcp.ok()) return tcp.status();
  if (!local.ok()) {
    meeting = std::string(local.status().message());
    if (options.local->shared_memory) {
      Log(LogLevel::kWarning,
          absl::StrCat((*tcp)->endpoint().ToString(), ": no shared memory: ", meeting));
    }
  }
  return std::make_unique<RendezvousListener>(
      *std::move(tcp), local.ok() ? *std::move(local) : nullptr, std::move(meeting));
}

void RendezvousConnect(const Endpoint& endpoint, const LocalCarrier& carrier, EventLoop* loop,
                       const TransportOptions& options, Deadline deadline,
                       ExplainedConnectCallback done) {
  auto selection = std::make_shared<Selection>(carrier, loop, options, deadline, std::move(done));
  TcpConnectNamed(endpoint, loop, options, deadline,
                  [selection = std::move(selection)](absl::StatusOr<StreamMade> made) {
                    selection->OnTcp(std::move(made));
                  });
}

}  // namespace mi7::transport
