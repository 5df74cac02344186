#pragma once

// For tests that step through processes with ptrace, which not every machine permits.

namespace mi7 {

// What such a test does when it has found out whether it can trace its children: `can`, so goes on
// when it can, and when it cannot says so in a NOTICE on stdout and is over. But it aborts where
// this machine should permit tracing, so that no such test passes having done nothing:
//
//   - where MI7_REQUIRE_PTRACE is set, to something else than 0: tools/test sets it to what it has
//     found out itself
//   - where that is not set, and neither a filter of system calls (a container's) nor Yama's
//     ptrace_scope says that it may be refused
bool TracingIsPermitted(bool can);

}  // namespace mi7
