#include "tests/conformance/connection_conformance.h"
#include "transport/inproc/inproc.h"

namespace mi7::transport::conformance {
namespace {

TransportCase Inproc(const std::string& name, WaitPolicy wait) {
  return {.name = name,
          .endpoint = "inproc:conformance",
          .listen = inproc::Listen,
          .connect = inproc::Connect,
          .wait = wait,
          .late = false};
}

INSTANTIATE_TEST_SUITE_P(Inproc, ConnectionConformance,
                         testing::Values(Inproc("Adaptive", WaitPolicy::kAdaptive),
                                         Inproc("Block", WaitPolicy::kBlock),
                                         Inproc("Spin", WaitPolicy::kSpin)),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace mi7::transport::conformance
