#include "examples/files/sha256.h"

#include <fstream>
#include <string>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace files {
namespace {

std::string HexDigestOf(const std::string& content) {
  const std::string path = testing::TempDir() + "/sha256_test";
  std::ofstream(path, std::ios::binary) << content;
  const absl::StatusOr<Sha256> digest = Sha256OfFile(path);
  if (!digest.ok()) return digest.status().ToString();
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest->data()), digest->size()});
}

// The examples of FIPS 180-2, appendix B: of 3 bytes, and of a million, which takes several reads.
TEST(Sha256Test, IsThatOfTheStandard) {
  EXPECT_EQ(HexDigestOf("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(HexDigestOf(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, ErrorsNameTheFile) {
  EXPECT_THAT(Sha256OfFile("/nowhere/at all").status().ToString(),
              testing::HasSubstr("/nowhere/at all"));
}

}  // namespace
}  // namespace files
