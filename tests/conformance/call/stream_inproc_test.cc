// Streams within one process.

#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {

INSTANTIATE_TEST_SUITE_P(Inproc, StreamTest,
                         testing::Values(CallTransport{"adaptive", "inproc", InprocName},
                                         CallTransport{"blocking", "inproc", InprocName,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

}  // namespace mi7::conformance
