#include "tests/conformance/connection_conformance.h"
#include "transport/transports.h"

namespace mi7::transport::conformance {
namespace {

TransportCase Tcp(const std::string& name, WaitPolicy wait) {
  return {.name = name,
          .endpoint = "tcp:127.0.0.1:0",
          .listen = Listen,
          .connect = Connect,
          .wait = wait,
          .late = false};
}

INSTANTIATE_TEST_SUITE_P(Tcp, ConnectionConformance,
                         testing::Values(Tcp("Adaptive", WaitPolicy::kAdaptive),
                                         Tcp("Block", WaitPolicy::kBlock),
                                         Tcp("Spin", WaitPolicy::kSpin)),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace mi7::transport::conformance
