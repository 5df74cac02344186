#include "transport/local/peer_policy.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "transport/local/testing.h"

namespace mi7::transport {
namespace {

PeerCredentials Somebody() {
  return {.pid = 4711, .uid = ::geteuid() + 1, .gid = 50, .groups = {60, 70}};
}

TEST(PeerPolicyTest, OurOwnUserIsAllowedByDefaultAndNobodyElse) {
  PeerCredentials peer = Somebody();
  const absl::Status refused = CheckPeer({}, peer);
  EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(
      refused.message(),
      absl::StrCat("the peer (pid 4711, uid ", peer.uid,
                   ", gid 50) is not allowed: the peer policy admits our own uid ", ::geteuid()));
  peer.uid = ::geteuid();
  EXPECT_TRUE(CheckPeer({}, peer).ok());
}

TEST(PeerPolicyTest, ListsAdmitUsersAndGroups) {
  const PeerCredentials peer = Somebody();
  PeerPolicy policy = PeerPolicy::Nobody();
  policy.users = {peer.uid + 1, peer.uid};
  EXPECT_TRUE(CheckPeer(policy, peer).ok());
  policy.users = {peer.uid + 1};
  policy.groups = {50};
  EXPECT_TRUE(CheckPeer(policy, peer).ok());
  policy.groups = {70};
  EXPECT_TRUE(CheckPeer(policy, peer).ok()) << "a supplementary group";
  policy.groups = {71, 72};
  EXPECT_EQ(CheckPeer(policy, peer).message(),
            absl::StrCat("the peer (pid 4711, uid ", peer.uid,
                         ", gid 50) is not allowed: the peer policy admits uids ", peer.uid + 1,
                         ", gids 71 72"));
}

TEST(PeerPolicyTest, NobodyRefusesOurselvesAndAnyoneRefusesNone) {
  PeerCredentials peer = Somebody();
  EXPECT_TRUE(CheckPeer(PeerPolicy::Anyone(), peer).ok());
  peer.uid = ::geteuid();
  peer.pid = 0;
  EXPECT_EQ(CheckPeer(PeerPolicy::Nobody(), peer).message(),
            absl::StrCat("the peer (pid of another namespace, uid ", peer.uid,
                         ", gid 50) is not allowed: the peer policy admits nobody"));
}

TEST(PeerPolicyTest, TrustTakesOurOwnUserOrAListOfItsOwn) {
  PeerCredentials peer = Somebody();
  EXPECT_FALSE(IsTrusted({}, peer));
  PeerPolicy policy;
  policy.trusted_users = {peer.uid};
  EXPECT_TRUE(IsTrusted(policy, peer));
  EXPECT_FALSE(CheckPeer(policy, peer).ok()) << "trust allows nobody";
  EXPECT_FALSE(IsTrusted(PeerPolicy::Anyone(), peer)) << "nor does permission make trusted";
  peer.uid = ::geteuid();
  EXPECT_TRUE(IsTrusted({}, peer));
}

constexpr int kNoNamespace = 77;

// 0 if it is `right` in a user namespace with one user, this one, under the uid `inside`;
// kNoNamespace if the machine permits none.
int InANamespaceAs(uid_t inside, bool (*right)(const PeerCredentials&)) {
  const uid_t outside = ::geteuid();
  return testing::WaitFor(testing::Fork([&] {
    if (::unshare(CLONE_NEWUSER) != 0) return kNoNamespace;
    std::ofstream map("/proc/self/uid_map");
    map << absl::StrCat(inside, " ", outside, " 1") << std::flush;
    if (!map || ::geteuid() != inside) return kNoNamespace;
    return right({.pid = 4711, .uid = inside, .gid = 50, .groups = {}}) ? 0 : 1;
  }));
}

TEST(PeerPolicyTest, TheUidOfAllUnknownUsersIsNotOurOwn) {
  uid_t overflow_uid = 0;
  std::ifstream("/proc/sys/kernel/overflowuid") >> overflow_uid;
  const int status = InANamespaceAs(overflow_uid, [](const PeerCredentials& peer) {
    PeerPolicy policy;
    const absl::Status refused = CheckPeer(policy, peer);
    policy.users = policy.trusted_users = {peer.uid};
    return absl::IsPermissionDenied(refused) &&
           absl::StrContains(refused.message(), "does not count") && !IsTrusted({}, peer) &&
           CheckPeer(policy, peer).ok() && IsTrusted(policy, peer);
  });
  if (status == kNoNamespace) {
    std::fprintf(stderr, "NOTICE: test not run, this machine permits no user namespace\n");
    GTEST_SKIP();
  }
  EXPECT_EQ(status, 0);
  EXPECT_EQ(InANamespaceAs(overflow_uid - 1,
                           [](const PeerCredentials& peer) {
                             return CheckPeer({}, peer).ok() && IsTrusted({}, peer);
                           }),
            0);
}

}  // namespace
}  // namespace mi7::transport
