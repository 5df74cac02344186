#pragma once

// Every shared mapping of the program that links this lies between two pages that nobody can touch:
// a read or a write one byte outside ends the test.

#include <cstddef>

namespace mi7::shm_hostile {

// Shared mappings at this moment.
size_t GuardedMappings();

// Entries of /proc/self/fd.
size_t OpenDescriptors();

}  // namespace mi7::shm_hostile
