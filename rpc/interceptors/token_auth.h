#pragma once

// Authentication by bearer tokens, and authorization by method.
//
//   // The client. Over TCP tokens travel as readable as everything else: until there is TLS, use
//   // them on machines and networks that you trust, or over Unix sockets and shared memory.
//   channel_options.interceptors = {mi7::MakeTokenSender([] { return CurrentToken(); })};
//
//   // The server.
//   mi7::MethodPolicy policy;
//   policy.Allow("Accounts.read", {"clerk", "auditor"}).Allow("Accounts.*", {"clerk"});
//   policy.AllowAnybody("Health.*");
//   mi7::StaticTokens tokens;
//   tokens.Add(secret, {.name = "alice", .groups = {"clerk"}});
//   server_options.interceptors = {mi7::MakeTokenAuth(tokens.Verifier(), policy)};
//
// A rule names a method as MethodInfo::name does: with the interface that declares it. What `Admin`
// inherits from `Base` is "Base.read", in every service that extends Base; interfaces that have one
// name in different files are not told apart. A stream is authorized when it begins, and goes on
// when its token ends.
//
// Handlers see who calls as metadata: context.metadata().Get(mi7::kIdentityKey).

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rpc/interceptor.h"

namespace mi7 {

// The metadata that carries a token: "Bearer " and the token.
inline constexpr absl::string_view kTokenKey = "authorization";
// The metadata in which a server's handlers find the name of who calls. What a client sends under
// this key never reaches them.
inline constexpr absl::string_view kIdentityKey = "mi7.identity";

// Who a token belongs to.
struct Identity {
  std::string name;
  // What a MethodPolicy may allow something to, besides the name.
  std::vector<std::string> groups = {};
};

// Compares secrets in a time that does not depend on where they differ (but may on their sizes).
bool EqualInConstantTime(absl::string_view a, absl::string_view b);

// --- Client

// Gives the token for the next call; its failure fails that call. Called for each call on the
// thread that sends it, must not block, and must be thread-safe: keep the token, and renew it
// elsewhere.
using TokenSource = std::function<absl::StatusOr<std::string>()>;
std::shared_ptr<Interceptor> MakeTokenSender(TokenSource source);

// --- Server

// Tells whose token it is. A token that is not valid gives UNAUTHENTICATED; every other failure
// means that it cannot be told at the moment, and fails the call with UNAVAILABLE. Called on the
// thread that drives the connection, must not block, and must be thread-safe.
using TokenVerifier = std::function<absl::StatusOr<Identity>(absl::string_view token)>;

// Tokens that are known beforehand. A value type; each verification compares with all of them, in
// constant time.
class StaticTokens {
 public:
  StaticTokens& Add(absl::string_view token, Identity identity);
  // Of a copy.
  TokenVerifier Verifier() const;

 private:
  std::vector<std::pair<std::string, Identity>> tokens_;
};

// Who may call which method. Patterns name one method ("Accounts.read"), those of an interface
// ("Accounts.*") or all ("*"). The rules of the closest pattern count, alone; without any the call
// is denied. A value type.
class MethodPolicy {
 public:
  // To identities whose name, or one of whose groups, is among `who`.
  MethodPolicy& Allow(absl::string_view pattern, std::initializer_list<absl::string_view> who);
  // To whoever has a valid token.
  MethodPolicy& AllowAuthenticated(absl::string_view pattern);
  // Without a token, too. One that comes along must be valid all the same.
  MethodPolicy& AllowAnybody(absl::string_view pattern);

  // `identity`: nullptr when there is no token. UNAUTHENTICATED when one is needed,
  // PERMISSION_DENIED when this identity may not.
  absl::Status Check(absl::string_view method, const Identity* identity) const;

 private:
  enum class Whom { kListed, kAuthenticated, kAnybody };
  struct Rule {
    Whom whom = Whom::kListed;
    std::vector<std::string> who;
  };
  const Rule* Find(absl::string_view method) const;
  std::map<std::string, Rule, std::less<>> rules_;  // by pattern
};

// Put it after those that log and measure, and before those that trust what a client says. Calls of
// methods that the server does not have are judged as "unknown", by the rule for "*": who has no
// valid token does not learn what there is, besides what is for anybody.
std::shared_ptr<Interceptor> MakeTokenAuth(TokenVerifier verifier, MethodPolicy policy);

}  // namespace mi7
