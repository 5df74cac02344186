#include "tests/shm_kill/shared.h"

#include <dirent.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace mi7::shm_kill {

Shared& SharedState() {
  static Shared* const shared = [] {
    void* const memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MI7_CHECK(memory != MAP_FAILED, "there is memory to share");
    return static_cast<Shared*>(memory);
  }();
  return *shared;
}

void Ledger::Clear() {
  const uint32_t used = std::min(begun.exchange(0), kCallsMax);
  for (uint32_t i = 0; i < used; ++i) {
    calls[i].runs = 0;
    calls[i].answers = 0;
    calls[i].fate = Fate::kOpen;
  }
}

uint32_t Ledger::Begin() {
  const uint32_t number = begun.fetch_add(1);
  return std::min(number, kCallsMax);
}

std::string Ledger::Audit(bool caller_lived) const {
  const uint32_t count = std::min(begun.load(), kCallsMax);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t runs = calls[i].runs;
    const uint32_t answers = calls[i].answers;
    const Fate fate = calls[i].fate;
    const bool sound = runs <= 1 && answers <= 1 && fate != Fate::kWrong &&
                       (fate != Fate::kOk || runs == 1) && (fate != Fate::kNotRun || runs == 0) &&
                       (!caller_lived || (answers == 1 && fate != Fate::kOpen));
    if (sound) continue;
    return absl::StrCat("call ", i, " of ", count, " ran ", runs, " times, was answered ", answers,
                        " times, its fate is ", static_cast<int>(fate),
                        " (0 open, 1 OK, 2 not run, 3 may have run, 4 wrong)");
  }
  return "";
}

Holdings GetHoldings() {
  Holdings holdings;
  DIR* const folder = ::opendir("/proc/self/fd");
  MI7_CHECK(folder != nullptr, "/proc/self/fd can be read");
  while (::readdir(folder) != nullptr) ++holdings.descriptors;
  ::closedir(folder);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:") != std::string::npos) ++holdings.mappings;
  }
  return holdings;
}

std::string Notices::ToString() const {
  return absl::StrCat(count_, " deaths, ", late_, " noticed later than ", kNoticeNs / 1'000'000,
                      " ms, the last after ", worst_ns_ / 1000, " us");
}

}  // namespace mi7::shm_kill
