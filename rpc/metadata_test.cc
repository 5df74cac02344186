#include "rpc/metadata.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "rpc/status_testing.h"

namespace mi7 {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(MetadataTest, KeepsOrderAndRepeats) {
  Metadata metadata{{"b", "1"}, {"a", "2"}};
  metadata.Add("b", "3").AddBinary("b", absl::string_view("\0\xff", 2));
  EXPECT_THAT(metadata.entries(),
              ElementsAre(Metadata::Entry{"b", "1", false}, Metadata::Entry{"a", "2", false},
                          Metadata::Entry{"b", "3", false},
                          Metadata::Entry{"b", std::string("\0\xff", 2), true}));
  EXPECT_FALSE(metadata.empty());
}

TEST(MetadataTest, GetFindsTheFirstOfItsKind) {
  Metadata metadata;
  metadata.AddBinary("key", "bytes").Add("key", "first").Add("key", "second").AddBinary("b", "");
  EXPECT_EQ(metadata.Get("key"), "first");
  EXPECT_EQ(metadata.GetBinary("key"), "bytes");
  EXPECT_EQ(metadata.GetBinary("b"), "");
  EXPECT_EQ(metadata.Get("b"), std::nullopt);
  EXPECT_EQ(metadata.Get("other"), std::nullopt);
}

TEST(MetadataTest, RemoveTakesEveryEntryWithTheKey) {
  Metadata metadata{{"a", "1"}, {"b", "2"}, {"a", "3"}};
  metadata.AddBinary("a", "4");
  EXPECT_EQ(metadata.Remove("a"), 3u);
  EXPECT_EQ(metadata, (Metadata{{"b", "2"}}));
  EXPECT_EQ(metadata.Remove("a"), 0u);
}

TEST(CheckMetadataTest, SoundKeys) {
  for (const std::string& key :
       {std::string("a"), std::string("x-request_id.2"), std::string("0"), std::string(256, 'k')}) {
    EXPECT_THAT(CheckMetadata(Metadata{{key, "v"}}, {}), IsOk()) << key;
  }
}

TEST(CheckMetadataTest, BadKeysAreNamed) {
  for (const std::string& key : {std::string(), std::string("Upper"), std::string("a b"),
                                 std::string("a:"), std::string("\xc3\xa4"), std::string("a\0b", 3),
                                 std::string("a\n"), std::string(257, 'k')}) {
    EXPECT_THAT(CheckMetadata(Metadata{{"fine", "v"}, {key, "v"}}, {}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr(" of " + std::to_string(key.size()) +
                                   " bytes is not 1 to 256 of [a-z0-9_.-]")))
        << key;
  }
  EXPECT_THAT(CheckMetadata(Metadata{{"a\n", "v"}}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       "metadata key \"a\\n\" of 2 bytes is not 1 to 256 of [a-z0-9_.-]"));
}

TEST(CheckMetadataTest, TextIsUtf8WithoutControlCharacters) {
  for (const absl::string_view text :
       {"", " ~", "gr\xc3\xbc\xc3\x9f", "\xe2\x82\xac", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\xdf\xbf", "\xe0\xa0\x80"}) {
    EXPECT_THAT(CheckMetadata(Metadata{{"k", text}}, {}), IsOk()) << text;
  }
  for (const absl::string_view text : {absl::string_view("\0", 1),
                                       absl::string_view("a\nb"),
                                       absl::string_view("\t"),
                                       absl::string_view("\x1f"),
                                       absl::string_view("\x7f"),
                                       absl::string_view("\x80"),      // begins with a continuation
                                       absl::string_view("\xc0\xaf"),  // overlong
                                       absl::string_view("\xc1\xbf"),  //
                                       absl::string_view("\xe0\x9f\xbf"),      //
                                       absl::string_view("\xf0\x8f\xbf\xbf"),  //
                                       absl::string_view("\xed\xa0\x80"),      // a surrogate
                                       absl::string_view("\xf4\x90\x80\x80"),  // above U+10FFFF
                                       absl::string_view("\xf5\x80\x80\x80"),
                                       absl::string_view("\xff"),
                                       absl::string_view("a\xc3"),
                                       absl::string_view("\xe2\x82"),
                                       absl::string_view("\xf0\x90\x80"),
                                       absl::string_view("\xc3("),
                                       absl::string_view("\xe2\x82("),
                                       absl::string_view("\xf0\x90\x80(")}) {
    EXPECT_THAT(CheckMetadata(Metadata{{"k", text}}, {}),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("which is not UTF-8 without control characters")))
        << text;
    Metadata binary;
    binary.AddBinary("k", text);
    EXPECT_THAT(CheckMetadata(binary, {}), IsOk());
  }
}

TEST(CheckMetadataTest, LongBadValuesAreShownInPart) {
  const absl::Status status = CheckMetadata(Metadata{{"k", std::string(10'000, '\x01')}}, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LT(status.message().size(), 500u);
}

TEST(CheckMetadataTest, CountAndBytesAreLimited) {
  Limits limits;
  limits.metadata_entries_max = 2;
  limits.extra_bytes_max = 16;
  EXPECT_THAT(CheckMetadata(Metadata{{"a", "1234567"}, {"b", "1234567"}}, limits), IsOk());
  EXPECT_THAT(CheckMetadata(Metadata{{"a", ""}, {"b", ""}, {"c", ""}}, limits),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "metadata of 3 entries, metadata_entries_max is 2"));
  EXPECT_THAT(CheckMetadata(Metadata{{"a", "1234567"}, {"b", "12345678"}}, limits),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       "metadata of 17 bytes, extra_bytes_max is 16"));
}

}  // namespace
}  // namespace mi7
