// Interceptors and the messages of streams.

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "rpc/client_streams.h"
#include "rpc/interceptor.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Hook final : public Interceptor {
 public:
  explicit Hook(std::function<void(InterceptedMessage&)> hook) : hook_(std::move(hook)) {}
  void OnMessage(InterceptedMessage& message) override { hook_(message); }

 private:
  const std::function<void(InterceptedMessage&)> hook_;
};

std::shared_ptr<Interceptor> OnMessage(std::function<void(InterceptedMessage&)> hook) {
  return std::make_shared<Hook>(std::move(hook));
}

ServerOptions ServerWith(Interceptors interceptors) {
  ServerOptions options;
  options.interceptors = std::move(interceptors);
  return options;
}
ChannelOptions ChannelWith(Interceptors interceptors) {
  ChannelOptions options;
  options.interceptors = std::move(interceptors);
  return options;
}

// What interceptors have seen, in order. Thread-safe.
class Story {
 public:
  std::shared_ptr<Interceptor> Teller(const std::string& name) {
    return OnMessage([this, name](InterceptedMessage& message) {
      const bool client = message.side() == InterceptedCall::Side::kClient;
      absl::MutexLock lock(&mutex_);
      events_.push_back(absl::StrCat(
          client ? "client " : "server ", name, message.outgoing() ? " sends " : " receives ",
          message.Get<Item>().getNumber(), " of ", message.method().name));
    });
  }
  std::vector<std::string> Take() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(events_, {});
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> events_ ABSL_GUARDED_BY(mutex_);
};

// Appends `digit` to the number of each message that is sent or received, as `outgoing` says.
std::shared_ptr<Interceptor> Append(uint64_t digit, bool outgoing) {
  return OnMessage([=](InterceptedMessage& message) {
    if (message.outgoing() != outgoing) return;
    Item::Builder item = message.Edit<Item>();
    item.setNumber(item.getNumber() * 10 + digit);
  });
}

TEST_P(StreamTest, InterceptorsSeeEachMessageOnItsWayThereAndBack) {
  Story story;
  Start(ServerWith({story.Teller("outer"), story.Teller("inner")}),
        ChannelWith({story.Teller("outer"), story.Teller("inner")}));
  auto chat = stub().Chat();
  for (const uint64_t number : {7, 8}) {
    ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), number)).Wait(), IsOk());
    const ItemRead item = chat.reader().Read().Wait();
    ASSERT_TRUE(item.ok() && *item && IsItem(**item, number));
    const std::string what = absl::StrCat(number, " of Feed.chat");
    EXPECT_THAT(story.Take(),
                ElementsAre("client outer sends " + what, "client inner sends " + what,
                            "server outer receives " + what, "server inner receives " + what,
                            "server inner sends " + what, "server outer sends " + what,
                            "client inner receives " + what, "client outer receives " + what));
  }
  chat.writer().Close();
  EXPECT_FALSE(*chat.reader().Read().Wait());
  EXPECT_THAT(story.Take(), IsEmpty()) << "the end is no message";
}

TEST_P(StreamTest, InterceptorsChangeMessages) {
  Start(ServerWith({Append(2, false), Append(3, true)}),
        ChannelWith({Append(1, true), Append(4, false)}));
  auto chat = stub().Chat();
  for (const size_t bytes : {size_t{0}, size_t{100}, size_t{50'000}}) {
    ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 5, bytes)).Wait(), IsOk());
    const ItemRead item = chat.reader().Read().Wait();
    ASSERT_THAT(item, IsOk());
    ASSERT_TRUE(*item);
    EXPECT_EQ((*item)->getNumber(), 51234u);
    EXPECT_EQ((*item)->getData().size(), bytes);
  }
}

TEST_P(StreamTest, AMessageThatAnInterceptorRefusesIsNotSentAndTheStreamGoesOn) {
  Start({}, ChannelWith({OnMessage([](InterceptedMessage& message) {
          const uint64_t number = message.Get<Item>().getNumber();
          if (number == 1) message.Fail(absl::PermissionDeniedError("not this one"));
          if (number == 2) throw std::runtime_error("not that one");
        })}));
  auto upload = stub().Upload();
  const auto write = [&](uint64_t number) {
    return upload.Write(NewItem(upload.writer(), number, 10)).Wait();
  };
  EXPECT_THAT(write(0), IsOk());
  EXPECT_THAT(write(1), StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("not this one")));
  EXPECT_THAT(write(2), StatusIs(absl::StatusCode::kInternal, HasSubstr("not that one")));
  EXPECT_THAT(write(3), IsOk());
  const auto response = upload.Finish().Wait();
  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->getCount(), 2u);
}

TEST_P(StreamTest, ARefusedMessageEndsTheReading) {
  const auto refuse = OnMessage([](InterceptedMessage& message) {
    if (message.outgoing() || message.Get<Item>().getNumber() != 2) return;
    message.Fail(absl::PermissionDeniedError("not this one"));
  });
  Start(ServerWith({refuse}), ChannelWith({refuse}));
  // At the client: the call is cancelled.
  auto reader = Watch(1000, 100);
  EXPECT_TRUE(IsItem(**reader.Read().Wait(), 0, 100));
  EXPECT_TRUE(IsItem(**reader.Read().Wait(), 1, 100));
  const auto refused = StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("not this one"));
  EXPECT_THAT(reader.Read().Wait().status(), refused);
  EXPECT_THAT(reader.Read().Wait().status(), refused) << "the end stays";
  // At the server: the handler ends the call as it sees fit, here with what its read gave.
  auto upload = stub().Upload();
  for (uint64_t number = 0; number < 3; ++number) {
    upload.Write(NewItem(upload.writer(), number)).Wait().IgnoreError();
  }
  EXPECT_THAT(upload.Finish().Wait().status(), refused);
  EXPECT_TRUE(Answers());
}

TEST_P(StreamTest, AMessageThatGrowsBeyondTheLimitInAnInterceptorEndsTheReading) {
  Start({}, ChannelWith({OnMessage([](InterceptedMessage& message) {
          message.Edit<Item>().initData(static_cast<unsigned>(Limits{}.message_bytes_max));
        })}));
  auto reader = Watch(3);
  EXPECT_THAT(reader.Read().Wait().status(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("message_bytes_max")));
  EXPECT_TRUE(Answers());
}

}  // namespace
}  // namespace mi7::conformance
