#include "absl/strings/str_cat.h"
#include "tests/conformance/connection_conformance.h"
#include "transport/local/testing.h"
#include "transport/unix/unix_connector.h"
#include "transport/unix/unix_listener.h"

namespace mi7::transport::conformance {
namespace {

TransportCase Unix(const std::string& name, WaitPolicy wait) {
  static const transport::testing::TemporaryDirectory directory;
  return {.name = name,
          .endpoint = absl::StrCat("unix:", directory / name),
          .listen =
              [](const Endpoint& endpoint, const std::vector<EventLoop*>& loops,
                 const TransportOptions& options, AcceptCallback on_accept) {
                return UnixListen(endpoint, loops, options, {}, std::move(on_accept));
              },
          .connect =
              [](const Endpoint& endpoint, EventLoop* loop, const TransportOptions& options,
                 Deadline deadline, ConnectCallback done) {
                UnixConnect(endpoint, loop, options, {}, deadline, std::move(done));
              },
          .wait = wait,
          .late = false};
}

INSTANTIATE_TEST_SUITE_P(Unix, ConnectionConformance,
                         ::testing::Values(Unix("Adaptive", WaitPolicy::kAdaptive),
                                           Unix("Block", WaitPolicy::kBlock),
                                           Unix("Spin", WaitPolicy::kSpin)),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace mi7::transport::conformance
