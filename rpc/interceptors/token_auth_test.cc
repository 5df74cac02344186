#include "rpc/interceptors/token_auth.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/interceptors/fake_call.h"
#include "rpc/status_testing.h"

namespace mi7 {
namespace {

constexpr MethodInfo kRead = {1, 0, "Accounts.read"};
constexpr MethodInfo kWrite = {1, 1, "Accounts.write"};
constexpr MethodInfo kDeep = {2, 0, "Accounts.Audit.list"};
constexpr MethodInfo kCheck = {3, 0, "Health.check"};
constexpr MethodInfo kOther = {4, 0, "Other.run"};

TEST(EqualInConstantTimeTest, ComparesAll) {
  EXPECT_TRUE(EqualInConstantTime("", ""));
  EXPECT_TRUE(EqualInConstantTime("secret", "secret"));
  EXPECT_FALSE(EqualInConstantTime("secret", "Secret"));
  EXPECT_FALSE(EqualInConstantTime("secret", "secreT"));
  EXPECT_FALSE(EqualInConstantTime("secret", "secre"));
  EXPECT_FALSE(EqualInConstantTime(std::string("a\0b", 3), std::string("a\0c", 3)));
}

TEST(TokenSenderTest, PutsTheTokenIntoTheMetadata) {
  const auto sender = MakeTokenSender([] { return std::string("t0ken"); });
  FakeCall call(kRead, InterceptedCall::Side::kClient);
  call.EditMetadata().Add("authorization", "Bearer stale").Add("tenant", "blue");
  call.Start(*sender);
  EXPECT_EQ(call.metadata(), (Metadata{{"tenant", "blue"}, {"authorization", "Bearer t0ken"}}));
  EXPECT_FALSE(call.ended());
}

TEST(TokenSenderTest, WithoutATokenTheCallFails) {
  const auto sender = MakeTokenSender(
      []() -> absl::StatusOr<std::string> { return absl::UnavailableError("no token yet"); });
  FakeCall call(kRead, InterceptedCall::Side::kClient);
  call.Start(*sender);
  EXPECT_TRUE(call.ended());
  EXPECT_EQ(call.status(), absl::UnavailableError("no token yet"));
}

class TokenAuthTest : public testing::Test {
 protected:
  TokenAuthTest() {
    policy_.Allow("Accounts.read", {"clerk", "auditor", "bob"})
        .Allow("Accounts.*", {"clerk"})
        .AllowAuthenticated("Accounts.Audit.*")
        .AllowAnybody("Health.*");
    tokens_.Add("of alice", {"alice", {"clerk"}}).Add("of bob", {"bob"}).Add("of eve", {"eve"});
  }
  // The status of a call with this in its metadata.
  absl::Status Call(const MethodInfo& method, const Metadata& metadata) {
    FakeCall call(method);
    call.EditMetadata() = metadata;
    call.Start(*MakeTokenAuth(tokens_.Verifier(), policy_));
    after_ = call.metadata();
    return call.ended() ? call.status() : absl::OkStatus();
  }
  absl::Status CallWith(const MethodInfo& method, const std::string& token) {
    return Call(method, Metadata{{"authorization", "Bearer " + token}});
  }

  MethodPolicy policy_;
  StaticTokens tokens_;
  Metadata after_;  // what the handler of the last call sees
};

TEST_F(TokenAuthTest, TheClosestRuleDecides) {
  const auto denied = [](const char* text) {
    return StatusIs(absl::StatusCode::kPermissionDenied, text);
  };
  EXPECT_THAT(CallWith(kRead, "of alice"), IsOk());
  EXPECT_THAT(CallWith(kRead, "of bob"), IsOk());
  EXPECT_THAT(CallWith(kRead, "of eve"), denied("eve may not call Accounts.read"));
  EXPECT_THAT(CallWith(kWrite, "of alice"), IsOk());
  EXPECT_THAT(CallWith(kWrite, "of bob"), denied("bob may not call Accounts.write"));
  EXPECT_THAT(CallWith(kDeep, "of eve"), IsOk());
  EXPECT_THAT(CallWith(kCheck, "of eve"), IsOk());
  EXPECT_THAT(CallWith(kOther, "of alice"), denied("alice may not call Other.run"));
  EXPECT_THAT(CallWith(kUnknownMethod, "of alice"), denied("alice may not call unknown"));
  policy_.Allow("*", {"alice"});
  EXPECT_THAT(CallWith(kOther, "of alice"), IsOk());
  EXPECT_THAT(CallWith(kUnknownMethod, "of alice"), IsOk());
  EXPECT_THAT(CallWith(kOther, "of bob"), denied("bob may not call Other.run"));
}

TEST_F(TokenAuthTest, NoTokenIsUnauthenticatedExceptForWhatIsForAnybody) {
  for (const MethodInfo& method : {kRead, kDeep, kOther, kUnknownMethod}) {
    EXPECT_THAT(Call(method, {}),
                StatusIs(absl::StatusCode::kUnauthenticated, "a token is needed"));
  }
  EXPECT_THAT(Call(kCheck, {}), IsOk());
}

TEST_F(TokenAuthTest, AWrongTokenIsUnauthenticatedEverywhere) {
  for (const MethodInfo& method : {kRead, kCheck, kUnknownMethod}) {
    EXPECT_THAT(CallWith(method, "of nobody"),
                StatusIs(absl::StatusCode::kUnauthenticated, "the token is not valid"));
    for (const char* value : {"", "of alice", "bearer of alice", "Bearer ", "Basic of alice"}) {
      EXPECT_THAT(
          Call(method, Metadata{{"authorization", value}}),
          StatusIs(absl::StatusCode::kUnauthenticated, "authorization is not a bearer token"));
    }
    Metadata binary;
    binary.AddBinary("authorization", "Bearer of alice");
    EXPECT_EQ(Call(method, binary).code(), absl::StatusCode::kUnauthenticated);
    EXPECT_THAT(Call(method, Metadata{{"authorization", "Bearer of alice"},
                                      {"authorization", "Bearer of bob"}}),
                StatusIs(absl::StatusCode::kUnauthenticated, "several tokens"));
  }
}

TEST_F(TokenAuthTest, HandlersSeeTheIdentityAndNotTheToken) {
  EXPECT_THAT(Call(kRead, Metadata{{"mi7.identity", "root"},
                                   {"authorization", "Bearer of alice"},
                                   {"tenant", "blue"}}),
              IsOk());
  EXPECT_EQ(after_, (Metadata{{"tenant", "blue"}, {"mi7.identity", "alice"}}));
  EXPECT_THAT(Call(kCheck, Metadata{{"mi7.identity", "root"}}), IsOk());
  EXPECT_TRUE(after_.empty()) << "nobody is not who they say";
}

TEST_F(TokenAuthTest, AVerifierThatCannotTellMakesTheCallUnavailable) {
  FakeCall call(kRead);
  call.EditMetadata().Add("authorization", "Bearer x");
  call.Start(*MakeTokenAuth(
      [](absl::string_view) -> absl::StatusOr<Identity> {
        return absl::InternalError("secret details of the key server");
      },
      policy_));
  EXPECT_TRUE(call.ended());
  EXPECT_EQ(call.status(), absl::UnavailableError("tokens cannot be verified at the moment"));
}

}  // namespace
}  // namespace mi7
