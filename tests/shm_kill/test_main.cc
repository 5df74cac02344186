#include "tests/shm_kill/test_main.h"

#include <cstdlib>
#include <cstring>
#include <memory>

#include <gtest/gtest.h>

#include "absl/strings/str_join.h"
#include "tests/shm_kill/shared.h"
#include "transport/local/testing.h"

namespace mi7::shm_kill {
namespace {

transport::testing::TemporaryDirectory* the_folder = nullptr;
Zygote* the_zygote = nullptr;
bool long_run = false;

}  // namespace

Zygote& TheZygote() { return *the_zygote; }
const std::string& Folder() { return the_folder->path(); }
std::string FilesInFolder() { return absl::StrJoin(the_folder->names(), "\n"); }
bool LongRun() { return long_run; }

}  // namespace mi7::shm_kill

int main(int argc, char** argv) {
  using namespace mi7::shm_kill;  // NOLINT: main alone
  mi7::transport::testing::TemporaryDirectory folder;
  the_folder = &folder;
  Zygote zygote(Live);
  the_zygote = &zygote;
  testing::InitGoogleTest(&argc, argv);
  long_run =
      std::getenv("MI7_LONG") != nullptr || (argc > 1 && std::strcmp(argv[1], "--long") == 0);
  return RUN_ALL_TESTS();
}
