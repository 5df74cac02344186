// Streams to a server on the same machine: over Unix sockets, in shared memory, and over what a
// mi7:// endpoint chooses.

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
                                                       transport::WaitPolicy::kBlock},
                                         CallTransport{"named", "shm", ShmName}),
                         CallTransportName);

INSTANTIATE_TEST_SUITE_P(Mi7, StreamTest, testing::Values(CallTransport{"chosen", "shm", Mi7Port}),
                         CallTransportName);

}  // namespace mi7::conformance
