// Interceptors and Cap'n Proto's `-> stream` methods, each of whose calls is a call to them.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <capnp/stream.capnp.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "rpc/interceptor.h"
#include "rpc/metadata.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class Hooks final : public Interceptor {
 public:
  using Hook = std::function<void(InterceptedCall&)>;
  explicit Hooks(Hook start, Hook end = nullptr) : start_(std::move(start)), end_(std::move(end)) {}
  void OnStart(InterceptedCall& call) override {
    ++starts;
    if (start_) start_(call);
  }
  void OnEnd(InterceptedCall& call) override {
    ++ends;
    if (end_) end_(call);
  }
  void OnMessage(InterceptedMessage&) override { ++messages; }

  std::atomic<int> starts{0}, ends{0}, messages{0};

 private:
  const Hook start_, end_;
};

// Either end's options, with `interceptors` if they are to be there.
template <typename Options>
Options With(bool there, Interceptors interceptors) {
  Options options;
  if (there) options.interceptors = std::move(interceptors);
  return options;
}

// The numbers that handlers have got. Thread-safe.
class Numbers {
 public:
  void Add(uint64_t number) {
    absl::MutexLock lock(&mutex_);
    numbers_.push_back(number);
  }
  std::vector<uint64_t> Take() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(numbers_, {});
  }

 private:
  absl::Mutex mutex_;
  std::vector<uint64_t> numbers_ ABSL_GUARDED_BY(mutex_);
};

FlowSending PourItem(FeedStub& stub, uint64_t number, const CallOptions& options = {}) {
  auto request = stub.Pour(options);
  FillItem(*request, number, 10);
  return request.Send();
}

TEST_P(StreamTest, InterceptorsChangePoursAndTheirAnswers) {
  // Appends a digit to the number, and a name to all metadata.
  const auto change = [](const char* name, uint64_t digit) {
    return std::make_shared<Hooks>(
        [=](InterceptedCall& call) {
          call.EditMetadata().Add("by", name);
          auto item = call.EditParams<Item>();
          item.setNumber(item.getNumber() * 10 + digit);
          if (digit == 2) item.initData(5000);  // more than there was room for
          if (call.deadline().infinite()) call.set_deadline(Deadline::After(absl::Hours(1)));
        },
        [=](InterceptedCall& call) {
          EXPECT_THAT(call.status(), IsOk());
          call.response_metadata().trailing.Add("by", name);
        });
  };
  Numbers numbers;
  feed_.on_pour = [&](ServerContext& context, Item::Reader item) {
    EXPECT_EQ(context.metadata(), (Metadata{{"by", "caller"}, {"by", "one"}, {"by", "two"}}));
    EXPECT_LE(context.deadline().remaining(), absl::Hours(1));
    EXPECT_EQ(item.getData().size(), 5000u);
    context.initial_metadata() = Metadata{{"shard", "7"}};
    context.trailing_metadata().Add("by", "handler");
    numbers.Add(item.getNumber());
    return absl::OkStatus();
  };
  for (const bool at_client : {true, false}) {
    SCOPED_TRACE(at_client);
    const auto one = change("one", 1);
    const auto two = change("two", 2);
    Start(With<ServerOptions>(!at_client, {one, two}), With<ChannelOptions>(at_client, {one, two}));
    FeedStub sink = stub();
    std::vector<std::shared_ptr<ResponseMetadata>> received;
    for (uint64_t number = 3; number < 6; ++number) {
      received.push_back(std::make_shared<ResponseMetadata>());
      ASSERT_THAT(
          PourItem(sink, number,
                   {.metadata = std::make_shared<const Metadata>(Metadata{{"by", "caller"}}),
                    .received = received.back()})
              .Wait(),
          IsOk());
    }
    EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
    EXPECT_THAT(numbers.Take(), ElementsAre(312, 412, 512));
    for (const auto& metadata : received) {
      EXPECT_EQ(metadata->initial, (Metadata{{"shard", "7"}}));
      EXPECT_EQ(metadata->trailing, (Metadata{{"by", "handler"}, {"by", "two"}, {"by", "one"}}));
    }
    EXPECT_EQ(one->starts, 3);
    EXPECT_EQ(one->ends, 3);
    EXPECT_EQ(one->messages, 0) << "they are calls";
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(StreamTest, PoursCountAsLargeAsInterceptorsHaveMadeThem) {
  absl::Mutex mutex;
  std::vector<DeferredCall> held;
  feed_.on_pour = [&](ServerContext& context, Item::Reader) {
    absl::MutexLock lock(&mutex);
    held.push_back(context.Defer());
    return Reply::Later();
  };
  const auto grow = std::make_shared<Hooks>(
      [](InterceptedCall& call) { call.EditParams<Item>().initData(5000); });
  ChannelOptions options = With<ChannelOptions>(true, {grow});
  options.limits.stream_window_bytes = 10'000;
  Start({}, options);
  FeedStub sink = stub();
  ASSERT_THAT(PourItem(sink, 0).Wait(), IsOk());
  absl::Notification completed;
  PourItem(sink, 1).Then([&](absl::Status) { completed.Notify(); });
  EXPECT_THAT(PourItem(sink, 2).Wait(), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_FALSE(completed.HasBeenNotified());
  {
    absl::MutexLock lock(&mutex);
    const auto both = [&] { return held.size() == 2; };
    ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&both), kSoon));
    for (DeferredCall& call : held) call.Finish(absl::OkStatus());
  }
  EXPECT_TRUE(Happens(completed));
  EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
}

TEST_P(StreamTest, APourThatAnInterceptorRefusesFailsTheFollowingOnes) {
  Numbers numbers;
  feed_.on_pour = [&](ServerContext&, Item::Reader item) {
    numbers.Add(item.getNumber());
    return absl::OkStatus();
  };
  for (const bool at_client : {true, false}) {
    SCOPED_TRACE(at_client);
    const auto refuse = std::make_shared<Hooks>([](InterceptedCall& call) {
      if (call.Params<Item>().getNumber() == 1) call.Fail(absl::PermissionDeniedError("not this"));
    });
    Start(With<ServerOptions>(!at_client, {refuse}), With<ChannelOptions>(at_client, {refuse}));
    FeedStub sink = stub();
    const auto refused = StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("not this"));
    EXPECT_THAT(PourItem(sink, 0).Wait(), IsOk());
    // The failure of one at the server is known when it has come back.
    absl::Status last = PourItem(sink, 1).Wait();
    const Deadline patience = Deadline::After(kSoon);
    while (last.ok() && !patience.passed()) last = PourItem(sink, 2).Wait();
    EXPECT_THAT(last, refused);
    EXPECT_THAT(PourItem(sink, 3).Wait(), refused) << "unsent";
    const absl::Status finished = sink.FinishStream().Wait();
    EXPECT_THAT(finished, refused);
    EXPECT_THAT(finished, OutcomeIs(at_client ? CallOutcome::kNotSent : CallOutcome::kAnswered));
    EXPECT_THAT(PourItem(sink, 4).Wait(), IsOk()) << "begins anew";
    EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
    const std::vector<uint64_t> ran = numbers.Take();
    EXPECT_EQ(ran.front(), 0u);
    EXPECT_EQ(ran.back(), 4u);
    EXPECT_THAT(ran, testing::Each(testing::AnyOf(0, 2, 4)));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

TEST_P(StreamTest, InterceptorsDecideHowAPourEnded) {
  feed_.on_pour = [](ServerContext&, Item::Reader item) {
    return item.getNumber() == 1 ? absl::NotFoundError("no such thing") : absl::OkStatus();
  };
  for (const bool at_client : {true, false}) {
    SCOPED_TRACE(at_client);
    std::atomic<bool> spoils{false};
    const auto turn = std::make_shared<Hooks>(nullptr, [&](InterceptedCall& call) {
      if (absl::IsNotFound(call.status())) {
        call.Answer<capnp::StreamResult>();
      } else if (spoils) {
        call.Fail(absl::DataLossError("spoilt"));
      }
    });
    Start(With<ServerOptions>(!at_client, {turn}), With<ChannelOptions>(at_client, {turn}));
    FeedStub sink = stub();
    EXPECT_THAT(PourItem(sink, 1).Wait(), IsOk());
    EXPECT_THAT(sink.FinishStream().Wait(), IsOk());
    spoils = true;
    PourItem(sink, 2).Wait().IgnoreError();
    EXPECT_EQ(sink.FinishStream().Wait(), absl::DataLossError("spoilt"));
    channel_ = nullptr;
    server_ = nullptr;
  }
}

}  // namespace
}  // namespace mi7::conformance
