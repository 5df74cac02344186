#include "transport/local/peer_policy.h"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mi7::transport {
namespace {

template <typename Id>
bool Contains(const std::vector<Id>& ids, Id id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Whether `uid` is that of our own user, and of nobody else. In a user namespace that does not have
// all users the system gives those that are missing one and the same uid (user_namespaces(7)): who
// runs under that cannot tell its own processes from theirs.
bool IsOurs(uid_t uid) {
  if (uid != ::geteuid()) return false;
  uint64_t overflow_uid = 65534;  // Linux' default
  if (uint64_t told; std::ifstream("/proc/sys/kernel/overflowuid") >> told) overflow_uid = told;
  if (uid != overflow_uid) [[likely]]
    return true;
  std::ifstream map("/proc/self/uid_map");
  uint64_t users = 0;
  for (uint64_t inside, outside, count; map >> inside >> outside >> count;) users += count;
  return users >= UINT32_MAX;  // all but uid_t{-1}, which is none
}

std::string Admitted(const PeerPolicy& policy) {
  std::vector<std::string> parts;
  if (policy.same_user) {
    parts.push_back(absl::StrCat("our own uid ", ::geteuid(),
                                 IsOurs(::geteuid()) ? ""
                                                     : " (which does not count, it stands for all "
                                                       "users that this user namespace lacks)"));
  }
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
  if (policy.anyone || (policy.same_user && IsOurs(peer.uid)) || Contains(policy.users, peer.uid) ||
      in_groups(peer.gid) || std::any_of(peer.groups.begin(), peer.groups.end(), in_groups)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat("the peer (", DescribePeer(peer),
                                                  ") is not allowed: the peer policy admits ",
                                                  Admitted(policy)));
}

bool IsTrusted(const PeerPolicy& policy, const PeerCredentials& peer) {
  return IsOurs(peer.uid) || Contains(policy.trusted_users, peer.uid);
}

}  // namespace mi7::transport
