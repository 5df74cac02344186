#pragma once

// What every test of this folder has: the zygote, a folder of its own, and a main function. Each
// defines Live.

#include <string>

#include "tests/shm_kill/zygote.h"

namespace mi7::shm_kill {

// What a process does that was started with `order`. Defined by each test.
void Live(const Order& order);

Zygote& TheZygote();
// Where sockets are: "shm:" and a path in it is an endpoint.
const std::string& Folder();
// Names of the files in it, one line each.
std::string FilesInFolder();
// Whether the long run was asked for, with --long or MI7_LONG in the environment.
bool LongRun();

}  // namespace mi7::shm_kill
