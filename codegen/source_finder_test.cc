#include "codegen/source_finder.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace mi7::codegen {
namespace {

// A folder with schemas, of which each declares the id that is given with it.
class SourceFinderTest : public testing::Test {
 protected:
  std::string Write(const std::string& path, const std::string& id) {
    const std::filesystem::path full = folder_ + "/" + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << "@" + id + ";\nstruct A {}\n";
    return full;
  }

  const std::string folder_ = testing::TempDir() + "source_finder_test";
};

TEST_F(SourceFinderTest, ReadsWhereTheCompilersPrefixSays) {
  Write("x.capnp", "0x8000000000000001");
  const std::string inside = Write("schemas/x.capnp", "0x8000000000000002");
  const std::string deeper = Write("deep/er/x.capnp", "0x8000000000000003");
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"capnp", "compile", "--src-prefix=schemas", "--src-prefix",
                                 folder_ + "/deep/er", "schemas/x.capnp"},
        std::vector<std::string>{"capnp", "compile", "-Ischemas", "-I", "deep/er"},
        std::vector<std::string>{"capnp", "--import-path=schemas", "--import-path", "deep/er"}}) {
    const SourceFinder sources = SourceFinder::Of(arguments, folder_, "");
    EXPECT_EQ(sources.Read("x.capnp", 0x8000000000000002).path, inside);
    EXPECT_EQ(sources.Read("x.capnp", 0x8000000000000003).path, deeper);
    EXPECT_EQ(sources.Read("x.capnp", 0x8000000000000001).path, folder_ + "/x.capnp");
    EXPECT_EQ(sources.Read("x.capnp", 0x8000000000000004).path, "");
    EXPECT_EQ(sources.Read("", 0x8000000000000004).path, "");
  }
  EXPECT_EQ(
      SourceFinder::Of({}, folder_, "nowhere:schemas").Read("x.capnp", 0x8000000000000002).path,
      inside);
}

TEST_F(SourceFinderTest, ImportsAreRelativeOrStartAtAnImportPath) {
  const std::string inside = Write("schemas/x.capnp", "0x8000000000000002");
  const std::string sibling = Write("schemas/y.capnp", "0x8000000000000005");
  const SourceFinder sources = SourceFinder::Of({"-Ischemas"}, folder_, "");
  EXPECT_EQ(sources.Import(inside, "y.capnp").path, sibling);
  EXPECT_EQ(sources.Import("/elsewhere/z.capnp", "/y.capnp").path, sibling);
  EXPECT_EQ(sources.Import(inside, "none.capnp").path, "");
  EXPECT_EQ(sources.Import("", "y.capnp").path, "");
  EXPECT_EQ(SourceFinder::Of({}, folder_, "").Import(inside, "/y.capnp").path, "")
      << "no import path names that folder";
}

}  // namespace
}  // namespace mi7::codegen
