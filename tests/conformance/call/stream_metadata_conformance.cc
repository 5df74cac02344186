// What streams carry besides messages: metadata, there and back.

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/synchronization/notification.h"
#include "rpc/call_outcome.h"
#include "rpc/metadata.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

Metadata Some(absl::string_view text) {
  Metadata metadata{{"text", text}, {"empty", ""}};
  metadata.AddBinary("blob", std::string("\0\1\xff", 3));
  return metadata;
}

// A handler of watch that leaves its call to the test.
struct Left {
  ServerContext* context = nullptr;
  StreamWriter<Item> writer;
  DeferredCall call;
  absl::Notification there = {};

  WatchHandler Handler() {
    return [this](ServerContext& own, Feed::WatchParams::Reader, StreamWriter<Item> to) -> Reply {
      context = &own;
      writer = std::move(to);
      call = own.Defer();
      there.Notify();
      return Reply::Later();
    };
  }
};

TEST_P(StreamTest, MetadataComesWithTheFirstMessageAndWithTheEnd) {
  for (const bool fails : {false, true}) {
    SCOPED_TRACE(fails);
    Left left;
    feed_.on_watch = left.Handler();
    Start();
    const auto received = std::make_shared<ResponseMetadata>();
    auto reader = Watch(
        0, 0,
        {.metadata = std::make_shared<const Metadata>(Some("request")), .received = received});
    ASSERT_TRUE(Happens(left.there));
    EXPECT_EQ(left.context->metadata(), Some("request"));
    left.context->initial_metadata() = Some("initial");
    ASSERT_THAT(left.writer.Write(NewItem(left.writer, 0)).Wait(), IsOk());
    ASSERT_TRUE(GivesItems(reader, 0, 1));
    EXPECT_EQ(received->initial, Some("initial")) << "while the stream goes on";
    left.context->initial_metadata().Add("too", "late");
    left.context->trailing_metadata() = Some("trailing");
    ASSERT_THAT(left.writer.Write(NewItem(left.writer, 1)).Wait(), IsOk());
    left.call.Finish(fails ? absl::NotFoundError("no more of them") : absl::OkStatus());
    ASSERT_TRUE(GivesItems(reader, 1, 2));
    const ItemRead end = reader.Read().Wait();
    if (fails) {
      EXPECT_THAT(end, StatusIs(absl::StatusCode::kNotFound, "no more of them"));
    } else {
      EXPECT_TRUE(end.ok() && !*end);
    }
    EXPECT_EQ(received->initial, Some("initial"));
    EXPECT_EQ(received->trailing, Some("trailing"));
  }
}

TEST_P(StreamTest, MetadataOfAStreamOfParametersComesWithItsAnswer) {
  std::optional<absl::Status> failure;
  feed_.on_upload = [&](ServerContext& context, StreamReader<Item> reader,
                        Feed::UploadResults::Builder) -> Reply {
    context.initial_metadata() = context.metadata();
    context.trailing_metadata() = Some("trailing");
    const ItemRead item = co_await reader.Read();
    if (!item.ok()) co_return item.status();
    co_return failure.value_or(absl::OkStatus());
  };
  Start();
  for (const bool fails : {false, true}) {
    SCOPED_TRACE(fails);
    if (fails) failure = absl::NotFoundError("no room");
    const auto received = std::make_shared<ResponseMetadata>();
    auto upload = stub().Upload(
        {.metadata = std::make_shared<const Metadata>(Some("request")), .received = received});
    // The stream may be over before the next message could be written.
    upload.Write(NewItem(upload.writer(), 0)).Wait().IgnoreError();
    EXPECT_EQ(upload.Finish().Wait().status().code(),
              fails ? absl::StatusCode::kNotFound : absl::StatusCode::kOk);
    EXPECT_EQ(received->initial, Some("request"));
    EXPECT_EQ(received->trailing, Some("trailing"));
  }
}

TEST_P(StreamTest, MetadataOfAStreamWithoutMessagesComesWithItsEnd) {
  feed_.on_chat = [](ServerContext& context, StreamReader<Item>, StreamWriter<Item>) -> Reply {
    context.initial_metadata() = Some("initial");
    context.trailing_metadata() = Some("trailing");
    return absl::NotFoundError("nothing to talk about");
  };
  Start();
  const auto received = std::make_shared<ResponseMetadata>();
  auto chat = stub().Chat({.received = received});
  EXPECT_THAT(chat.reader().Read().Wait(), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(received->initial, Some("initial"));
  EXPECT_EQ(received->trailing, Some("trailing"));
}

}  // namespace
}  // namespace mi7::conformance
