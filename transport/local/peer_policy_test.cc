#include "transport/local/peer_policy.h"

#include <unistd.h>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

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

}  // namespace
}  // namespace mi7::transport
