#include "transport/unix/unix_kind.h"

#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/last_shared.h"
#include "transport/stream/socket.h"

namespace mi7::transport {
namespace {

// What StreamEnds keeps of the end that connected.
struct Process {
  pid_t pid;
  uid_t uid;
};
static_assert(sizeof(Process) <= sizeof(StreamEnds::peer));

// Of the peer; also when it has gone already.
Process PeerProcess(int fd) {
  ucred peer{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
  socklen_t length = sizeof(peer);
  ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
  return {peer.pid, peer.uid};
}

// `kRoom` holds the path and its final zero.
template <size_t kRoom>
class Kind final : public StreamKind {
 public:
  explicit Kind(const std::string& path) { path.copy(path_.data(), kRoom - 1); }

  absl::string_view name() const override { return "unix"; }
  bool passes_descriptors() const override { return true; }
  void Configure(int, const Limits&) const override {}

  StreamEnds EndsOf(int fd, bool accepted) const override {
    StreamEnds ends;
    const Process process = accepted ? PeerProcess(fd) : Process{::getpid(), ::geteuid()};
    std::memcpy((accepted ? ends.peer : ends.local).data(), &process, sizeof(process));
    return ends;
  }
  std::string PeerText(const StreamEnds& ends, bool accepted) const override {
    return accepted ? Text(ends.peer) : Listener();
  }
  std::string LocalText(const StreamEnds& ends, bool accepted) const override {
    return accepted ? Listener() : Text(ends.local);
  }

 private:
  std::string Listener() const { return absl::StrCat("unix:", path_.data()); }
  static std::string Text(const decltype(StreamEnds::peer)& end) {
    Process process;
    std::memcpy(&process, end.data(), sizeof(process));
    return ProcessText("unix", process.pid, process.uid);
  }

  std::array<char, kRoom> path_{};
};

// In one piece of memory.
template <size_t kRoom>
struct KindAndContext {
  KindAndContext(const TransportOptions& options, const std::string& path)
      : kind(path), context(options, &kind) {}
  const Kind<kRoom> kind;
  StreamContext context;
};

template <size_t kRoom>
std::shared_ptr<StreamContext> MakeContext(const TransportOptions& options,
                                           const std::string& path) {
  auto both = std::make_shared<KindAndContext<kRoom>>(options, path);
  StreamContext* const context = &both->context;
  return {std::move(both), context};
}

}  // namespace

absl::StatusOr<PeerCredentials> ReadPeerCredentials(int fd) {
  ucred peer;
  socklen_t length = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return SocketError("reading the peer's credentials", errno);
  }
  PeerCredentials credentials{.pid = peer.pid, .uid = peer.uid, .gid = peer.gid, .groups = {}};
  credentials.groups.resize(32);
  for (;;) {
    length = static_cast<socklen_t>(credentials.groups.size() * sizeof(gid_t));
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, credentials.groups.data(), &length) == 0) break;
    if (errno != ERANGE) {
      length = 0;  // it is known by its user and group at least
      break;
    }
    credentials.groups.resize(length / sizeof(gid_t));
  }
  credentials.groups.resize(length / sizeof(gid_t));
  return credentials;
}

std::string ProcessText(absl::string_view scheme, pid_t pid, uid_t uid) {
  return absl::StrCat(scheme, ":pid=", pid, ",uid=", uid);
}

std::shared_ptr<StreamContext> UnixContext(const TransportOptions& options,
                                           const std::string& path) {
  if (path.size() < 32) return MakeContext<32>(options, path);
  if (path.size() < 64) return MakeContext<64>(options, path);
  if (path.size() < 128) return MakeContext<128>(options, path);
  return MakeContext<PATH_MAX>(options, path);  // only by a descriptor of its directory
}

std::shared_ptr<StreamContext> ShareUnixContext(const TransportOptions& options,
                                                const std::string& path) {
  static auto& shared = *new LastShared<StreamContext>;
  return shared.Get(
      [&options, &path](const StreamContext& last) {
        return last.wait == options.wait && last.limits == options.limits &&
               last.kind->PeerText(StreamEnds(), /*accepted=*/false) == absl::StrCat("unix:", path);
      },
      [&options, &path] { return UnixContext(options, path); });
}

std::function<absl::Status(int fd)> AdmitPeers(
    std::function<absl::Status(const PeerCredentials&)> admit) {
  if (!admit) return nullptr;
  return [admit = std::move(admit)](int fd) {
    const absl::StatusOr<PeerCredentials> peer = ReadPeerCredentials(fd);
    return peer.ok() ? admit(*peer) : peer.status();
  };
}

}  // namespace mi7::transport
