#include "tests/conformance/call/stream_conformance.h"

#include <utility>

namespace mi7::conformance {

StreamTest::~StreamTest() {
  channel_ = nullptr;
  server_ = nullptr;
}

void StreamTest::Start(const ServerOptions& server, const ChannelOptions& channel) {
  ServerOptions complete = server;
  complete.wait = GetParam().wait;
  absl::StatusOr<std::unique_ptr<Server>> started = ServerBuilder()
                                                        .SetOptions(complete)
                                                        .AddService(&feed_)
                                                        .Listen(GetParam().new_endpoint())
                                                        .Start();
  ASSERT_THAT(started, IsOk());
  server_ = *std::move(started);
  endpoint_ = server_->endpoints()[0];
  channel_ = NewChannel(channel);
}

void StreamTest::Start(const Limits& limits) {
  ServerOptions server;
  server.limits = limits;
  ChannelOptions channel;
  channel.limits = limits;
  Start(server, channel);
}

std::shared_ptr<Channel> StreamTest::NewChannel(ChannelOptions options) const {
  options.wait = GetParam().wait;
  absl::StatusOr<std::shared_ptr<Channel>> channel = Channel::Create(endpoint_, options);
  EXPECT_THAT(channel, IsOk());
  return *std::move(channel);
}

StreamReader<Item> StreamTest::Watch(uint64_t count, size_t bytes,
                                     const CallOptions& options) const {
  auto request = stub().Watch(options);
  request->setCount(count);
  request->setBytes(static_cast<uint32_t>(bytes));
  return request.Send();
}

testing::AssertionResult StreamTest::Answers() const {
  auto request = stub().Ask({.deadline = Deadline::After(kSoon)});
  request->setNumber(42);
  const auto response = request.Send().Wait();
  if (!response.ok()) return testing::AssertionFailure() << response.status();
  if (response->getNumber() != 42) return testing::AssertionFailure() << response->getNumber();
  return testing::AssertionSuccess();
}

testing::AssertionResult StreamTest::GivesItems(StreamReader<Item>& reader, uint64_t first,
                                                uint64_t last, size_t bytes) {
  for (uint64_t number = first; number < last; ++number) {
    const ItemRead item = reader.Read().Wait();
    if (!item.ok()) return testing::AssertionFailure() << number << ": " << item.status();
    if (!*item) return testing::AssertionFailure() << "the end instead of " << number;
    if (!IsItem(**item, number, bytes)) {
      return testing::AssertionFailure() << (*item)->getNumber() << " instead of " << number;
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace mi7::conformance
