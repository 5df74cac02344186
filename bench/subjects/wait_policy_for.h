#pragma once

// How mi7 is told to wait as a workload asks for.

#include "bench/harness/workload.h"
#include "transport/wait_policy.h"

namespace mi7::bench {

inline transport::WaitPolicy PolicyFor(Waiting waiting) {
  switch (waiting) {
    case Waiting::kBlocking:
      return transport::WaitPolicy::kBlock;
    case Waiting::kSpinning:
      return transport::WaitPolicy::kSpin;
    case Waiting::kDefault:
      break;
  }
  return transport::WaitPolicy::kAdaptive;
}

}  // namespace mi7::bench
