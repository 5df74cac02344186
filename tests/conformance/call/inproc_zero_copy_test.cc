// "Zero payload copies" within one process: what a stub or a handler has built is read by the other
// side at the very address where it was built, in both directions, of calls and of each kind of
// stream.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "tests/conformance/call/call_transport.h"
#include "tests/conformance/call/feed_service.h"
#include "tests/conformance/call/probe_service.h"

namespace mi7::conformance {
namespace {

// Where messages of one direction were built, by their number, and how many were read there or
// elsewhere.
class Places {
 public:
  void Built(uint64_t number, const void* place) {
    absl::MutexLock lock(&mutex_);
    built_[number] = place;
  }
  void Read(uint64_t number, const void* place) {
    absl::MutexLock lock(&mutex_);
    const auto found = built_.find(number);
    ++(found != built_.end() && found->second == place ? in_place_ : elsewhere_);
  }
  // `count` of them, and since the last such question none elsewhere.
  testing::AssertionResult AreInPlace(uint64_t count) {
    absl::MutexLock lock(&mutex_);
    const uint64_t in_place = std::exchange(in_place_, 0);
    const uint64_t elsewhere = std::exchange(elsewhere_, 0);
    built_.clear();
    if (in_place == count && elsewhere == 0) return testing::AssertionSuccess();
    return testing::AssertionFailure()
           << in_place << " of " << count << " in place, " << elsewhere << " elsewhere";
  }

 private:
  absl::Mutex mutex_;
  std::map<uint64_t, const void*> built_ ABSL_GUARDED_BY(mutex_);
  uint64_t in_place_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t elsewhere_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Items of each size.
constexpr uint64_t kCount = 3;
constexpr size_t kSizes[] = {300, 4000, 20'000, 1 << 20, 5 << 20};

class InprocZeroCopyTest : public testing::TestWithParam<CallTransport> {
 protected:
  InprocZeroCopyTest() {
    feed_.on_watch = [this](ServerContext&, Feed::WatchParams::Reader params,
                            StreamWriter<Item> writer) -> Reply {
      for (uint64_t number = 0; number < params.getCount(); ++number) {
        absl::Status sent =
            co_await writer.Write(Built(NewItem(writer, number, params.getBytes()), down_));
        if (!sent.ok()) co_return sent;
      }
      co_return absl::OkStatus();
    };
    feed_.on_upload = [this](ServerContext&, StreamReader<Item> reader,
                             Feed::UploadResults::Builder) -> Reply {
      for (;;) {
        const ItemRead item = co_await reader.Read();
        if (!item.ok()) co_return item.status();
        if (!*item) co_return absl::OkStatus();
        Read(**item, up_);
      }
    };
    feed_.on_chat = [this](ServerContext&, StreamReader<Item> reader,
                           StreamWriter<Item> writer) -> Reply {
      for (;;) {
        const ItemRead item = co_await reader.Read();
        if (!item.ok()) co_return item.status();
        if (!*item) co_return absl::OkStatus();
        Read(**item, up_);
        absl::Status sent = co_await writer.Write(
            Built(NewItem(writer, (*item)->getNumber(), (*item)->getData().size()), down_));
        if (!sent.ok()) co_return sent;
      }
    };
    feed_.on_pour = [this](ServerContext&, Item::Reader item) {
      Read(item, up_);
      return absl::OkStatus();
    };
    probe_.on_echo = [this](ServerContext&, Probe::EchoParams::Reader params,
                            Probe::EchoResults::Builder results) {
      const auto request = params.getData();
      up_.Read(0, request.begin());
      down_.Built(0, results.initData(static_cast<unsigned>(request.size())).begin());
      return absl::OkStatus();
    };
    ServerOptions server;
    server.wait = GetParam().wait;
    server_ = *ServerBuilder()
                   .SetOptions(server)
                   .AddService(&feed_)
                   .AddService(&probe_)
                   .Listen(GetParam().new_endpoint())
                   .Start();
    ChannelOptions channel;
    channel.wait = GetParam().wait;
    channel_ = *Channel::Create(server_->endpoints()[0], channel);
  }
  ~InprocZeroCopyTest() override {
    channel_ = nullptr;
    server_ = nullptr;
  }

  static StreamDraft<Item> Built(StreamDraft<Item> draft, Places& places) {
    places.Built(draft->getNumber(), draft->getData().begin());
    return draft;
  }
  static void Read(Item::Reader item, Places& places) {
    places.Read(item.getNumber(), item.getData().begin());
  }

  Places up_;    // to the server
  Places down_;  // to the client
  FeedImpl feed_;
  ProbeImpl probe_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<Channel> channel_;
};

TEST_P(InprocZeroCopyTest, RequestsAndResponsesAreReadWhereTheyWereBuilt) {
  for (const size_t size : kSizes) {
    SCOPED_TRACE(size);
    for (uint64_t i = 0; i < kCount; ++i) {
      auto request = ProbeStub(channel_).Echo({.deadline = Deadline::After(kSoon)});
      up_.Built(0, request->initData(static_cast<unsigned>(size)).begin());
      const EchoResult result = request.Send().Wait();
      ASSERT_THAT(result, IsOk());
      down_.Read(0, result->getData().begin());
      EXPECT_TRUE(up_.AreInPlace(1));
      EXPECT_TRUE(down_.AreInPlace(1));
    }
  }
}

TEST_P(InprocZeroCopyTest, MessagesThatAServerStreamsAreReadWhereTheyWereBuilt) {
  for (const size_t size : kSizes) {
    SCOPED_TRACE(size);
    FeedStub stub(channel_);
    auto request = stub.Watch();
    request->setCount(kCount);
    request->setBytes(static_cast<uint32_t>(size));
    auto reader = request.Send();
    // Those that are kept, too.
    std::vector<StreamMessage<Item>> kept;
    for (uint64_t number = 0; number < kCount; ++number) {
      ItemRead item = reader.Read().Wait();
      ASSERT_THAT(item, IsOk());
      ASSERT_TRUE(*item);
      kept.push_back(**std::move(item));
    }
    ASSERT_FALSE(*reader.Read().Wait());
    for (const StreamMessage<Item>& item : kept) Read(item, down_);
    EXPECT_TRUE(down_.AreInPlace(kCount));
  }
}

TEST_P(InprocZeroCopyTest, MessagesThatAClientStreamsAreReadWhereTheyWereBuilt) {
  for (const size_t size : kSizes) {
    SCOPED_TRACE(size);
    auto upload = FeedStub(channel_).Upload();
    for (uint64_t number = 0; number < kCount; ++number) {
      ASSERT_THAT(upload.Write(Built(NewItem(upload.writer(), number, size), up_)).Wait(), IsOk());
    }
    ASSERT_THAT(upload.Finish().Wait(), IsOk());
    EXPECT_TRUE(up_.AreInPlace(kCount));
  }
}

TEST_P(InprocZeroCopyTest, MessagesOfAChatAreReadWhereTheyWereBuilt) {
  for (const size_t size : kSizes) {
    SCOPED_TRACE(size);
    auto chat = FeedStub(channel_).Chat();
    for (uint64_t number = 0; number < kCount; ++number) {
      ASSERT_THAT(chat.writer().Write(Built(NewItem(chat.writer(), number, size), up_)).Wait(),
                  IsOk());
      const ItemRead item = chat.reader().Read().Wait();
      ASSERT_TRUE(item.ok() && *item);
      EXPECT_TRUE(IsItem(**item, number, size));
      Read(**item, down_);
    }
    chat.writer().Close();
    ASSERT_FALSE(*chat.reader().Read().Wait());
    EXPECT_TRUE(up_.AreInPlace(kCount));
    EXPECT_TRUE(down_.AreInPlace(kCount));
  }
}

TEST_P(InprocZeroCopyTest, FlowCallsAreReadWhereTheyWereBuilt) {
  for (const size_t size : kSizes) {
    SCOPED_TRACE(size);
    FeedStub sink(channel_);
    for (uint64_t number = 0; number < kCount; ++number) {
      auto request = sink.Pour();
      FillItem(*request, number, size);
      up_.Built(number, request->getData().begin());
      ASSERT_THAT(request.Send().Wait(), IsOk());
    }
    ASSERT_THAT(sink.FinishStream().Wait(), IsOk());
    EXPECT_TRUE(up_.AreInPlace(kCount));
  }
}

INSTANTIATE_TEST_SUITE_P(Inproc, InprocZeroCopyTest,
                         testing::Values(CallTransport{"adaptive", "inproc", InprocName},
                                         CallTransport{"blocking", "inproc", InprocName,
                                                       transport::WaitPolicy::kBlock}),
                         CallTransportName);

}  // namespace
}  // namespace mi7::conformance
