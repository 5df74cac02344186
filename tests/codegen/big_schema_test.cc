// The code of a schema of more than 2,000 lines compiles, links, and describes all of it.

#include <set>
#include <string>

#include <gtest/gtest.h>

#include "tests/codegen/big.mi7.h"

namespace {

void CollectMethods(const mi7::InterfaceInfo& info, std::set<std::string>& names) {
  for (size_t i = 0; i < info.method_count; ++i) names.insert(info.methods[i].name);
  for (size_t i = 0; i < info.base_count; ++i) CollectMethods(*info.bases[i], names);
}

// It extends two interfaces that extend two others each, all with five methods.
TEST(BigSchema, LastInterfaceIsDescribedWithAllThatItInherits) {
  const mi7::InterfaceInfo& info = big::LastService::info();
  EXPECT_STREQ(info.name, "Last");
  EXPECT_EQ(info.method_count, 1u);
  EXPECT_EQ(info.base_count, 2u);
  std::set<std::string> names;
  CollectMethods(info, names);
  EXPECT_EQ(names.size(), 1u + 6 * 5);
}

}  // namespace
