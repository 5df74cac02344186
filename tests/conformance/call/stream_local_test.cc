// Streams to a server on the same machine, over Unix sockets and in shared memory.

#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {

INSTANTIATE_TEST_SUITE_P(Unix, StreamTest,
                         testing::Values(CallTransport{"adaptive", "unix", UnixPath},
                                         CallTransport{"blocking", "unix", UnixPath,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

INSTANTIATE_TEST_SUITE_P(Shm, StreamTest,
                         testing::Values(CallTransport{"adaptive", "shm", ShmPath},
                                         CallTransport{"blocking", "shm", ShmPath,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

}  // namespace mi7::conformance
