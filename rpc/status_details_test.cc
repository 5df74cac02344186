#include "rpc/status_details.h"

#include <string>

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "absl/strings/cord.h"
#include "absl/strings/escaping.h"
#include "schema/protocol.capnp.h"

namespace mi7 {
namespace {

using protocol::MetadataEntry;
using protocol::TraceContext;

absl::Status WithKey(absl::Status status, const char* key) {
  capnp::MallocMessageBuilder message;
  message.initRoot<MetadataEntry>().setKey(key);
  AttachDetail<MetadataEntry>(message, status);
  return status;
}

std::string KeyOf(const absl::Status& status) {
  std::string key = "(none)";
  ReadDetail<MetadataEntry>(status, [&](MetadataEntry::Reader entry) { key = entry.getKey(); });
  return key;
}

TEST(StatusDetailsTest, TypeUrlIsTheTypeIdInSixteenDigits) {
  EXPECT_EQ(DetailTypeUrl(0x1), "capnp/0000000000000001");
  EXPECT_EQ(DetailTypeUrl(0xfedcba9876543210), "capnp/fedcba9876543210");
}

TEST(StatusDetailsTest, ReadsWhatWasAttached) {
  EXPECT_EQ(KeyOf(WithKey(absl::NotFoundError("x"), "the key")), "the key");
}

TEST(StatusDetailsTest, LaterDetailOfATypeReplacesTheEarlier) {
  EXPECT_EQ(KeyOf(WithKey(WithKey(absl::NotFoundError("x"), "first"), "second")), "second");
}

TEST(StatusDetailsTest, DetailsOfSeveralTypesStandSideBySide) {
  absl::Status status = WithKey(absl::NotFoundError("x"), "key");
  capnp::MallocMessageBuilder message;
  message.initRoot<TraceContext>().setTraceparent("parent");
  AttachDetail<TraceContext>(message, status);
  EXPECT_EQ(KeyOf(status), "key");
  std::string parent;
  EXPECT_TRUE(ReadDetail<TraceContext>(
      status, [&](TraceContext::Reader context) { parent = context.getTraceparent(); }));
  EXPECT_EQ(parent, "parent");
}

TEST(StatusDetailsTest, AbsentDetailIsNotRead) {
  bool read = false;
  const auto note = [&](MetadataEntry::Reader) { read = true; };
  EXPECT_FALSE(ReadDetail<MetadataEntry>(absl::NotFoundError("x"), note));
  EXPECT_FALSE(ReadDetail<MetadataEntry>(absl::OkStatus(), note));
  EXPECT_FALSE(read);
}

TEST(StatusDetailsTest, MalformedDetailIsNotRead) {
  const std::string table_of_1000_segments("\xe7\x03\0\0\0\0\0\0", 8);
  const std::string segment_beyond_the_end("\0\0\0\0\xff\xff\0\0", 8);
  // One segment of one word: a struct pointer 100 words past the end.
  const std::string pointer_out_of_bounds("\0\0\0\0\1\0\0\0\x90\1\0\0\1\0\0\0", 16);
  for (const std::string& bytes : {std::string(), std::string("odd"), table_of_1000_segments,
                                   segment_beyond_the_end, pointer_out_of_bounds}) {
    absl::Status status = absl::NotFoundError("x");
    status.SetPayload(DetailTypeUrl(capnp::typeId<MetadataEntry>()), absl::Cord(bytes));
    EXPECT_FALSE(ReadDetail<MetadataEntry>(status, [](MetadataEntry::Reader entry) {
      entry.getKey();
    })) << absl::BytesToHexString(bytes);
  }
}

TEST(StatusDetailsTest, DetailInManyPiecesIsRead) {
  const absl::Status whole = WithKey(absl::NotFoundError("x"), "a key of some length");
  const std::string url = DetailTypeUrl(capnp::typeId<MetadataEntry>());
  const std::string bytes(*whole.GetPayload(url));
  absl::Cord pieces;
  for (const char byte : bytes)
    pieces.Append(absl::MakeCordFromExternal(absl::string_view(new char(byte), 1),
                                             [](absl::string_view piece) { delete piece.data(); }));
  absl::Status status = absl::NotFoundError("x");
  status.SetPayload(url, pieces);
  EXPECT_EQ(KeyOf(status), "a key of some length");
}

}  // namespace
}  // namespace mi7
