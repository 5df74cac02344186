#include "transport/local/peer_policy.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mi7::transport {
namespace {

template <typename Id>
bool Contains(const std::vector<Id>& ids, Id id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

std::string Admitted(const PeerPolicy& policy) {
  std::vector<std::string> parts;
  if (policy.same_user) parts.push_back(absl::StrCat("our own uid ", ::geteuid()));
  if (!policy.users.empty()) {
    parts.push_back(absl::StrCat("uids ", absl::StrJoin(policy.users, " ")));
  }
  if (!policy.groups.empty()) {
    parts.push_back(absl::StrCat("gids ", absl::StrJoin(policy.groups, " ")));
  }
  return parts.empty() ? "nobody" : absl::StrJoin(parts, ", ");
}

}  // namespace

std::string DescribePeer(const PeerCredentials& peer) {
  return absl::StrCat(peer.pid == 0 ? "pid of another namespace" : absl::StrCat("pid ", peer.pid),
                      ", uid ", peer.uid, ", gid ", peer.gid);
}

absl::Status CheckPeer(const PeerPolicy& policy, const PeerCredentials& peer) {
  const auto in_groups = [&policy](gid_t group) { return Contains(policy.groups, group); };
  if (policy.anyone || (policy.same_user && peer.uid == ::geteuid()) ||
      Contains(policy.users, peer.uid) || in_groups(peer.gid) ||
      std::any_of(peer.groups.begin(), peer.groups.end(), in_groups)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat("the peer (", DescribePeer(peer),
                                                  ") is not allowed: the peer policy admits ",
                                                  Admitted(policy)));
}

bool IsTrusted(const PeerPolicy& policy, const PeerCredentials& peer) {
  return peer.uid == ::geteuid() || Contains(policy.trusted_users, peer.uid);
}

}  // namespace mi7::transport
