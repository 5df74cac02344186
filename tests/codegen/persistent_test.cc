// The one interface that Cap'n Proto installs: its generated code compiles and links.

#include <capnp/common.h>
#include <gtest/gtest.h>

#include "tests/codegen/persistent.mi7.h"

template class capnp::PersistentService<>;
template class capnp::PersistentService<capnp::Text, capnp::Data>;
template class capnp::PersistentStub<capnp::Text, capnp::Data>;

namespace {

TEST(InstalledSchemas, PersistentIsDescribed) {
  const mi7::InterfaceInfo& info = capnp::PersistentService<>::info();
  EXPECT_STREQ(info.name, "Persistent");
  EXPECT_EQ(info.id, 0xc8cb212fcd9f5691u);
  ASSERT_EQ(info.method_count, 1u);
  EXPECT_STREQ(info.methods[0].name, "Persistent.save");
}

}  // namespace
