// What streams carry besides messages: metadata, there and back.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "rpc/call_outcome.h"
#include "rpc/metadata.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

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

// --- Metadata against the rules

std::shared_ptr<const Metadata> Share(Metadata metadata) {
  return std::make_shared<const Metadata>(std::move(metadata));
}
Metadata Entries(uint32_t count) {
  Metadata metadata;
  for (uint32_t i = 0; i < count; ++i) metadata.Add("key", "value");
  return metadata;
}
Metadata OfBytes(size_t bytes) {
  Metadata metadata;
  metadata.AddBinary("large", std::string(bytes, 'x'));
  return metadata;
}

// What breaks a rule, and how the status says so.
struct Bad {
  Metadata metadata;
  absl::StatusCode code;
  const char* text;
};
std::vector<Bad> BadOnes() {
  return {
      {{{"Key", "v"}}, absl::StatusCode::kInvalidArgument, "metadata key \"Key\""},
      {{{"key", "\n"}}, absl::StatusCode::kInvalidArgument, "text value \"\\n\""},
      {Entries(Limits{}.metadata_entries_max + 1), absl::StatusCode::kResourceExhausted,
       "metadata_entries_max is 128"},
      {OfBytes(Limits{}.extra_bytes_max), absl::StatusCode::kResourceExhausted,
       "extra_bytes_max is 65536"},
      // Its bytes are within the limit, with Cap'n Proto's around them they are not.
      {OfBytes(Limits{}.extra_bytes_max - 16), absl::StatusCode::kResourceExhausted,
       "extra_bytes_max"},
  };
}

// The ends of streams of all kinds that are opened with `metadata`.
std::vector<absl::Status> EndsOfAll(FeedStub stub, const Metadata& metadata) {
  const CallOptions options = {.metadata = Share(metadata)};
  std::vector<absl::Status> ends;
  auto watch = stub.Watch(options).Send();
  ends.push_back(watch.Read().Wait().status());
  auto chat = stub.Chat(options);
  chat.writer().Write(NewItem(chat.writer(), 0)).Wait().IgnoreError();
  ends.push_back(chat.reader().Read().Wait().status());
  auto upload = stub.Upload(options);
  upload.Write(NewItem(upload.writer(), 0)).Wait().IgnoreError();
  ends.push_back(upload.Finish().Wait().status());
  stub.Pour(options).Send().Wait().IgnoreError();
  ends.push_back(stub.FinishStream().Wait());
  return ends;
}
constexpr const char* kNames[] = {"Feed.watch", "Feed.chat", "Feed.upload", "Feed.pour"};

TEST_P(StreamTest, StreamsWithMetadataAgainstTheRulesAreNotSent) {
  Start();
  // The first one waits for the connection, which the others have.
  for (const Bad& bad : BadOnes()) {
    SCOPED_TRACE(bad.text);
    const std::vector<absl::Status> ends = EndsOfAll(stub(), bad.metadata);
    for (size_t i = 0; i < ends.size(); ++i) {
      EXPECT_THAT(ends[i], StatusIs(bad.code, AllOf(StartsWith(absl::StrCat(kNames[i], ": ")),
                                                    HasSubstr(bad.text))));
      EXPECT_THAT(ends[i], OutcomeIs(CallOutcome::kNotSent));
    }
    EXPECT_TRUE(Answers());
  }
}

TEST_P(StreamTest, StreamsWithMetadataOverTheServersLimitsAreRefused) {
  ServerOptions options;
  options.limits.metadata_entries_max = 2;
  options.limits.extra_bytes_max = 1024;
  Start(options);
  ASSERT_TRUE(Answers());
  for (const absl::Status& end : EndsOfAll(stub(), Entries(3))) {
    EXPECT_THAT(end, StatusIs(absl::StatusCode::kResourceExhausted,
                              HasSubstr("metadata of 3 entries, metadata_entries_max is 2")));
    EXPECT_THAT(end, OutcomeIs(CallOutcome::kRefused));
  }
  // Within one process it is not even sent.
  const auto did_not_run =
      testing::AnyOf(OutcomeIs(CallOutcome::kRefused), OutcomeIs(CallOutcome::kNotSent));
  for (const absl::Status& end : EndsOfAll(stub(), OfBytes(2000))) {
    EXPECT_THAT(end, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("extra_bytes_max")));
    EXPECT_THAT(end, did_not_run);
  }
  EXPECT_TRUE(Answers());
}

// What a handler of watch or chat sends with an item and the end.
struct Response {
  Metadata initial, trailing;
  absl::Status status;

  Reply Send(ServerContext& context, StreamWriter<Item> writer) {
    context.initial_metadata() = initial;
    context.trailing_metadata() = trailing;
    if (const absl::Status sent = co_await writer.Write(NewItem(writer, 0)); !sent.ok()) {
      co_return sent;
    }
    co_return status;
  }
  void AnswerAll(FeedImpl& feed) {
    feed.on_watch = [this](ServerContext& context, Feed::WatchParams::Reader,
                           StreamWriter<Item> writer) { return Send(context, std::move(writer)); };
    feed.on_chat = [this](ServerContext& context, StreamReader<Item>, StreamWriter<Item> writer) {
      return Send(context, std::move(writer));
    };
  }
};

// A stream of watch or chat.
class Listening {
 public:
  Listening(const FeedStub& stub, bool chats, std::shared_ptr<ResponseMetadata> received) {
    const CallOptions options = {.received = std::move(received)};
    if (chats) {
      chat_.emplace(stub.Chat(options));
    } else {
      watch_ = stub.Watch(options).Send();
    }
  }
  StreamReader<Item>& reader() { return chat_ ? chat_->reader() : watch_; }

 private:
  std::optional<BidiStream<Item, Item>> chat_;
  StreamReader<Item> watch_;
};

TEST_P(StreamTest, MetadataOverTheClientsLimitsFailsTheStreamAlone) {
  Response response;
  response.AnswerAll(feed_);
  ChannelOptions options;
  options.limits.metadata_entries_max = 3;  // as Some has
  options.limits.extra_bytes_max = 1024;
  Start({}, options);
  for (const bool entries : {true, false}) {
    for (const bool with_message : {true, false}) {
      for (const bool chats : {false, true}) {
        SCOPED_TRACE(testing::Message() << entries << with_message << chats);
        const Metadata large = entries ? Entries(4) : OfBytes(2000);
        response.initial = with_message ? large : Some("initial");
        response.trailing = with_message ? Metadata() : large;
        const auto received = std::make_shared<ResponseMetadata>();
        Listening listening(stub(), chats, received);
        StreamReader<Item>& reader = listening.reader();
        if (!with_message) {
          ASSERT_TRUE(GivesItems(reader, 0, 1));
        }
        EXPECT_THAT(reader.Read().Wait(),
                    StatusIs(absl::StatusCode::kResourceExhausted,
                             HasSubstr(entries ? "metadata_entries_max" : "extra_bytes_max")));
        EXPECT_EQ(received->initial, with_message ? Metadata() : Some("initial"));
        EXPECT_TRUE(received->trailing.empty());
        EXPECT_TRUE(Answers());
      }
    }
  }
}

TEST_P(StreamTest, AHandlersMetadataAgainstTheRulesFailItsStreamWhenItEnds) {
  Response response;
  response.AnswerAll(feed_);
  Start();
  for (const Bad& bad : BadOnes()) {
    for (const bool initial : {true, false}) {
      for (const bool fails : {false, true}) {
        for (const bool chats : {false, true}) {
          SCOPED_TRACE(testing::Message() << bad.text << initial << fails << chats);
          response.initial = initial ? bad.metadata : Some("initial");
          response.trailing = initial ? Some("trailing") : bad.metadata;
          response.status = fails ? absl::AbortedError("why") : absl::OkStatus();
          const auto received = std::make_shared<ResponseMetadata>();
          Listening listening(stub(), chats, received);
          StreamReader<Item>& reader = listening.reader();
          // Which would have brought them.
          ASSERT_TRUE(GivesItems(reader, 0, 1));
          EXPECT_EQ(received->initial, initial ? Metadata() : Some("initial"));
          const ItemRead end = reader.Read().Wait();
          if (fails) {
            EXPECT_THAT(end, StatusIs(absl::StatusCode::kAborted,
                                      AllOf(StartsWith("why ["), HasSubstr(" by mi7: "))));
          } else {
            EXPECT_THAT(end, StatusIs(absl::StatusCode::kInternal,
                                      AllOf(StartsWith("results: "), HasSubstr(bad.text),
                                            HasSubstr("; the call has run"))));
          }
          EXPECT_EQ(received->initial, initial ? Metadata() : Some("initial"));
          EXPECT_TRUE(received->trailing.empty());
        }
      }
    }
  }
  EXPECT_TRUE(Answers());
}

}  // namespace
}  // namespace mi7::conformance
