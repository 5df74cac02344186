#pragma once

// Two ends of a shared-memory connection in one process, for tests: what the handshake would do.

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "transport/shm/half.h"
#include "transport/shm/shm_connection.h"
#include "transport/transports.h"

namespace mi7::transport::shm {

// Calls `look` with each descriptor of memory for message slots in this process: those that its
// makers have.
template <typename Look>
void ForEachSlotMemory(Look look) {
  DIR* const folder = ::opendir("/proc/self/fd");
  MI7_CHECK(folder != nullptr, "descriptors can be listed");
  while (const dirent* const entry = ::readdir(folder)) {
    std::array<char, 64> target{};
    const std::string path = absl::StrCat("/proc/self/fd/", entry->d_name);
    if (::readlink(path.c_str(), target.data(), target.size() - 1) <= 0) continue;
    if (absl::StartsWith(target.data(), "/memfd:mi7-slots")) look(std::atoi(entry->d_name));
  }
  ::closedir(folder);
}

// Bytes that are committed to the message slots of this process.
inline uint64_t CommittedSlotBytes() {
  uint64_t bytes = 0;
  ForEachSlotMemory([&bytes](int descriptor) {
    struct stat info;
    if (::fstat(descriptor, &info) == 0) bytes += static_cast<uint64_t>(info.st_blocks) * 512;
  });
  return bytes;
}

// What each end of a pair is made with.
struct PairOptions {
  TransportOptions client;
  TransportOptions server;
  ShmOptions client_shm;
  ShmOptions server_shm;
  bool trusted = true;
};

// The two halves and sockets before they are connections: index 0 is the client.
struct RawPair {
  LocalHalf halves[2];
  UniqueFd sockets[2];
};

inline RawPair MakeRawPair(const ShmOptions& client, const ShmOptions& server) {
  RawPair raw;
  int sockets[2];
  MI7_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0, "socketpair");
  for (int i = 0; i < 2; ++i) {
    auto half = LocalHalf::Create(std::make_shared<const ShmOptions>(i == 0 ? client : server));
    MI7_CHECK(half.ok(), "shared memory is available");
    raw.halves[i] = *std::move(half);
    raw.sockets[i] = UniqueFd(sockets[i]);
  }
  return raw;
}

// `half` as its peer sees it.
inline PeerHalf AsPeer(const LocalHalf& half, const ShmOptions& options = {}) {
  auto peer = PeerHalf::Verify(UniqueFd(::fcntl(half.descriptor(), F_DUPFD_CLOEXEC, 0)), options);
  MI7_CHECK(peer.ok(), "a half of ours is sound");
  return *std::move(peer);
}

// The connections, not started; first is the client's.
inline std::pair<std::shared_ptr<Connection>, std::shared_ptr<Connection>> ConnectPair(
    EventLoop* client_loop, EventLoop* server_loop, const PairOptions& options) {
  RawPair raw = MakeRawPair(options.client_shm, options.server_shm);
  std::shared_ptr<Connection> ends[2];
  PeerHalf peers[2] = {AsPeer(raw.halves[1]), AsPeer(raw.halves[0])};
  for (int i = 0; i < 2; ++i) {
    const TransportOptions& own = i == 0 ? options.client : options.server;
    const TransportOptions& other = i == 0 ? options.server : options.client;
    raw.halves[i].CloseDescriptor();
    ends[i] = MakeShmConnection(
        {.options = std::make_shared<const TransportOptions>(own),
         .loop = i == 0 ? client_loop : server_loop,
         .socket = std::move(raw.sockets[i]),
         .mine = std::move(raw.halves[i]),
         .theirs = std::move(peers[i]),
         .negotiated = {.features = kFeaturesOfAll,
                        .message_bytes_max =
                            std::min(own.limits.message_bytes_max, other.limits.message_bytes_max),
                        .calls_in_flight_max = other.limits.calls_in_flight_max,
                        .stream_window_bytes = other.limits.stream_window_bytes},
         .accepted = i == 1,
         .trusted = options.trusted,
         .peer = "shm:test",
         .local = "shm:test",
         .while_open = nullptr});
  }
  return {std::move(ends[0]), std::move(ends[1])};
}

}  // namespace mi7::transport::shm
