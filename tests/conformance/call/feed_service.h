#pragma once

// The service of feed.capnp, as tests need it.

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "tests/conformance/call/feed.mi7.h"

namespace mi7::conformance {

using WatchHandler =
    std::function<Reply(ServerContext&, Feed::WatchParams::Reader, StreamWriter<Item>)>;
using UploadHandler =
    std::function<Reply(ServerContext&, StreamReader<Item>, Feed::UploadResults::Builder)>;
using ChatHandler = std::function<Reply(ServerContext&, StreamReader<Item>, StreamWriter<Item>)>;
using PourHandler = std::function<Reply(ServerContext&, Item::Reader)>;
using ItemRead = StreamReader<Item>::Result;

// A message with a number and `bytes` bytes of data that follow from it.
StreamDraft<Item> NewItem(StreamWriter<Item>& writer, uint64_t number, size_t bytes = 0);
void FillItem(Item::Builder item, uint64_t number, size_t bytes);
// Whether `item` is what FillItem made.
bool IsItem(Item::Reader item, uint64_t number, size_t bytes = 0);

// Sends `count` items of `bytes` bytes, numbered from 0.
Reply SendItems(ServerContext& context, Feed::WatchParams::Reader params,
                StreamWriter<Item> writer);
// The time in ms that the caller has left.
uint64_t RemainingMs(const ServerContext& context);
Reply SendRemaining(ServerContext& context, StreamWriter<Item> writer);
// Counts what comes.
Reply CountItems(ServerContext& context, StreamReader<Item> reader,
                 Feed::UploadResults::Builder results);
// Sends each item back.
Reply EchoItems(ServerContext& context, StreamReader<Item> reader, StreamWriter<Item> writer);

// Answers with handlers of the test, which are set before the server starts.
class FeedImpl final : public FeedService {
 public:
  Reply Watch(ServerContext& context, Feed::WatchParams::Reader params,
              StreamWriter<Item> writer) override {
    return on_watch(context, params, std::move(writer));
  }
  Reply Upload(ServerContext& context, StreamReader<Item> reader,
               Feed::UploadResults::Builder results) override {
    return on_upload(context, std::move(reader), results);
  }
  Reply Chat(ServerContext& context, StreamReader<Item> reader,
             StreamWriter<Item> writer) override {
    return on_chat(context, std::move(reader), std::move(writer));
  }
  Reply Ask(ServerContext&, Feed::AskParams::Reader params,
            Feed::AskResults::Builder results) override {
    results.setNumber(params.getNumber());
    return absl::OkStatus();
  }
  Reply Pour(ServerContext& context, Item::Reader params) override {
    return on_pour(context, params);
  }
  Reply Remaining(ServerContext& context, Feed::RemainingParams::Reader,
                  StreamWriter<Item> writer) override {
    return SendRemaining(context, std::move(writer));
  }
  Reply Drip(ServerContext& context, Item::Reader params) override {
    return on_pour(context, params);
  }

  WatchHandler on_watch = SendItems;
  UploadHandler on_upload = CountItems;
  ChatHandler on_chat = EchoItems;
  PourHandler on_pour = [](ServerContext&, Item::Reader) { return absl::OkStatus(); };
};

}  // namespace mi7::conformance
