#include <filesystem>

#include <capnp/message.h>
#include <capnp/rpc-twoparty.h>
#include <capnp/schema-parser.h>
#include <capnp/schema.capnp.h>
#include <capnp/serialize.h>
#include <kj/async-io.h>
#include <kj/filesystem.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {

TEST(CapnpTest, MessageRoundTrip) {
  capnp::MallocMessageBuilder builder;
  builder.initRoot<capnp::schema::Node>().setDisplayName("node");
  kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  capnp::FlatArrayMessageReader reader(words);
  EXPECT_STREQ(reader.getRoot<capnp::schema::Node>().getDisplayName().cStr(), "node");
}

TEST(CapnpTest, AsyncAndRpcLibraries) {
  kj::EventLoop loop;
  kj::WaitScope scope(loop);
  kj::Promise<int> promise = kj::evalLater([] { return 5; });
  EXPECT_EQ(promise.wait(scope), 5);
  capnp::Capability::Client broken(KJ_EXCEPTION(FAILED, "nothing there"));
  EXPECT_ANY_THROW(broken.whenResolved().wait(scope));
}

TEST(CapnpTest, SchemaParser) {
  capnp::SchemaParser parser;
  kj::Own<kj::Filesystem> disk = kj::newDiskFilesystem();
  EXPECT_ANY_THROW(
      parser.parseFromDirectory(disk->getRoot(), kj::Path({"missing.capnp"}), nullptr));
}

TEST(CapnpTest, ToolsAndSchemasAreInTheRepository) {
  const std::filesystem::path root = "../capnp";
  for (const char* name : {"bin/capnp", "bin/capnpc-c++", "include/capnp/c++.capnp",
                           "include/capnp/stream.capnp", "include/capnp/compat/json.capnp"}) {
    EXPECT_TRUE(std::filesystem::exists(root / name)) << name;
  }
  EXPECT_THAT(root.string(), testing::StartsWith(".."));
}

}  // namespace
