#include <array>

#include <openssl/evp.h>

#include "gtest/gtest.h"

namespace {

TEST(OpensslTest, Sha256OfNothing) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  ASSERT_EQ(EVP_Digest("", 0, digest.data(), &size, EVP_sha256(), nullptr), 1);
  ASSERT_EQ(size, 32u);
  EXPECT_EQ(digest[0], 0xe3);
  EXPECT_EQ(digest[31], 0x55);
}

}  // namespace
