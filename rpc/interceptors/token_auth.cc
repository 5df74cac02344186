#include "rpc/interceptors/token_auth.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace mi7 {
namespace {

constexpr absl::string_view kScheme = "Bearer ";

class TokenSender final : public Interceptor {
 public:
  explicit TokenSender(TokenSource source) : source_(std::move(source)) {}

  void OnStart(InterceptedCall& call) override {
    const absl::StatusOr<std::string> token = source_();
    if (!token.ok()) return call.Fail(token.status());
    Metadata& metadata = call.EditMetadata();
    metadata.Remove(kTokenKey);
    metadata.Add(kTokenKey, absl::StrCat(kScheme, *token));
  }

 private:
  const TokenSource source_;
};

class TokenAuth final : public Interceptor {
 public:
  TokenAuth(TokenVerifier verifier, MethodPolicy policy)
      : verifier_(std::move(verifier)), policy_(std::move(policy)) {}

  void OnStart(InterceptedCall& call) override {
    const absl::StatusOr<Identity> identity = Authenticate(call.metadata());
    // No identity is not a failure yet: there may be methods for anybody.
    const bool anonymous = absl::IsNotFound(identity.status());
    if (!identity.ok() && !anonymous) return call.Fail(identity.status());
    const absl::Status allowed =
        policy_.Check(call.method().name, anonymous ? nullptr : &*identity);
    if (!allowed.ok()) return call.Fail(allowed);
    // The handler has no use for the secret, and must not take the client's word for who it is.
    Metadata& metadata = call.EditMetadata();
    metadata.Remove(kTokenKey);
    metadata.Remove(kIdentityKey);
    if (!anonymous) metadata.Add(kIdentityKey, identity->name);
  }

 private:
  // NOT_FOUND: there is no token.
  absl::StatusOr<Identity> Authenticate(const Metadata& metadata) const {
    const Metadata::Entry* found = nullptr;
    for (const Metadata::Entry& entry : metadata.entries()) {
      if (entry.key != kTokenKey) continue;
      if (found != nullptr) return absl::UnauthenticatedError("several tokens");
      found = &entry;
    }
    if (found == nullptr) return absl::NotFoundError("no token");
    absl::string_view token = found->value;
    if (found->binary || !absl::ConsumePrefix(&token, kScheme) || token.empty()) {
      return absl::UnauthenticatedError("authorization is not a bearer token");
    }
    absl::StatusOr<Identity> identity = verifier_(token);
    if (identity.ok()) return identity;
    // What the verifier knows about tokens is not for those who try some.
    if (absl::IsUnauthenticated(identity.status())) {
      return absl::UnauthenticatedError("the token is not valid");
    }
    return absl::UnavailableError("tokens cannot be verified at the moment");
  }

  const TokenVerifier verifier_;
  const MethodPolicy policy_;
};

}  // namespace

bool EqualInConstantTime(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  // volatile: the compiler must not end the loop early.
  volatile unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

std::shared_ptr<Interceptor> MakeTokenSender(TokenSource source) {
  return std::make_shared<TokenSender>(std::move(source));
}

StaticTokens& StaticTokens::Add(absl::string_view token, Identity identity) {
  tokens_.emplace_back(std::string(token), std::move(identity));
  return *this;
}

TokenVerifier StaticTokens::Verifier() const {
  return [tokens = tokens_](absl::string_view token) -> absl::StatusOr<Identity> {
    const Identity* found = nullptr;
    for (const auto& [known, identity] : tokens) {
      if (EqualInConstantTime(known, token)) found = &identity;
    }
    if (found == nullptr) return absl::UnauthenticatedError("unknown token");
    return *found;
  };
}

MethodPolicy& MethodPolicy::Allow(absl::string_view pattern,
                                  std::initializer_list<absl::string_view> who) {
  Rule& rule = rules_[std::string(pattern)];
  for (const absl::string_view one : who) rule.who.emplace_back(one);
  return *this;
}

MethodPolicy& MethodPolicy::AllowAuthenticated(absl::string_view pattern) {
  Rule& rule = rules_[std::string(pattern)];
  rule.whom = std::max(rule.whom, Whom::kAuthenticated);
  return *this;
}

MethodPolicy& MethodPolicy::AllowAnybody(absl::string_view pattern) {
  rules_[std::string(pattern)].whom = Whom::kAnybody;
  return *this;
}

const MethodPolicy::Rule* MethodPolicy::Find(absl::string_view method) const {
  auto found = rules_.find(method);
  if (found != rules_.end()) return &found->second;
  // "Outer.Inner.method": the interface is what comes before the last dot.
  const size_t dot = method.rfind('.');
  if (dot != absl::string_view::npos) {
    found = rules_.find(absl::StrCat(method.substr(0, dot), ".*"));
    if (found != rules_.end()) return &found->second;
  }
  found = rules_.find("*");
  return found != rules_.end() ? &found->second : nullptr;
}

absl::Status MethodPolicy::Check(absl::string_view method, const Identity* identity) const {
  const Rule* const rule = Find(method);
  if (rule != nullptr && rule->whom == Whom::kAnybody) return absl::OkStatus();
  if (identity == nullptr) {
    return absl::UnauthenticatedError("a token is needed");
  }
  if (rule != nullptr && rule->whom == Whom::kAuthenticated) return absl::OkStatus();
  const auto listed = [&](absl::string_view name) {
    return rule != nullptr &&
           std::find(rule->who.begin(), rule->who.end(), name) != rule->who.end();
  };
  if (listed(identity->name) ||
      std::any_of(identity->groups.begin(), identity->groups.end(), listed)) {
    return absl::OkStatus();
  }
  return absl::PermissionDeniedError(absl::StrCat(identity->name, " may not call ", method));
}

std::shared_ptr<Interceptor> MakeTokenAuth(TokenVerifier verifier, MethodPolicy policy) {
  return std::make_shared<TokenAuth>(std::move(verifier), std::move(policy));
}

}  // namespace mi7
