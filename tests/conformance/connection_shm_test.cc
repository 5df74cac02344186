#include "absl/strings/str_cat.h"
#include "tests/conformance/connection_conformance.h"
#include "transport/local/testing.h"
#include "transport/shm/shm_connector.h"
#include "transport/shm/shm_listener.h"

namespace mi7::transport::conformance {
namespace {

TransportCase Shm(const std::string& name, WaitPolicy wait, bool trusted = true) {
  static const transport::testing::TemporaryDirectory directory;
  ShmTerms terms;
  terms.trusts = [trusted](const PeerCredentials&) { return trusted; };
  return {.name = name,
          .endpoint = absl::StrCat("shm:", directory / name),
          .listen =
              [terms](const Endpoint& endpoint, const std::vector<EventLoop*>& loops,
                      const TransportOptions& options, AcceptCallback on_accept) {
                return ShmListen(endpoint, loops, options, terms, std::move(on_accept));
              },
          .connect =
              [terms](const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                      Deadline deadline, ConnectCallback done) {
                ShmConnect(endpoint, loop, options, terms, deadline, std::move(done));
              },
          .wait = wait,
          .late = false};
}

INSTANTIATE_TEST_SUITE_P(Shm, ConnectionConformance,
                         ::testing::Values(Shm("Adaptive", WaitPolicy::kAdaptive),
                                           Shm("Block", WaitPolicy::kBlock),
                                           Shm("Spin", WaitPolicy::kSpin),
                                           Shm("Untrusted", WaitPolicy::kAdaptive, false)),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace mi7::transport::conformance
