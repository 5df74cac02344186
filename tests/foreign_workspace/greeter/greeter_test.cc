// A service of another workspace, built from schemas of two packages, called through mi7.

#include <future>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "greeter/greeter.mi7.h"
#include "greeter/greeter.mi7.mock.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "transport/event_loop.h"
#include "transport/wait_policy.h"

namespace greeter {
namespace {

class GreeterImpl final : public GreeterService {
 public:
  mi7::Reply Greet(mi7::ServerContext&, Greeter::GreetParams::Reader params,
                   Greeter::GreetResults::Builder results) override {
    const names::Person::Reader person = params.getPerson();
    if (!person.hasGiven()) return absl::InvalidArgumentError("person has no given name");
    results.setGreeting(
        absl::StrCat("Hello, ", person.getGiven().cStr(), " ", person.getFamily().cStr(), "!"));
    return absl::OkStatus();
  }
};

class GreeterTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto server = mi7::ServerBuilder().AddService(&service_).Listen(GetParam()).Start();
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto channel = mi7::Channel::Create(server_->endpoints()[0]);
    ASSERT_TRUE(channel.ok()) << channel.status();
    channel_ = *std::move(channel);
  }

  GreeterImpl service_;
  std::unique_ptr<mi7::Server> server_;
  std::shared_ptr<mi7::Channel> channel_;
};

TEST_P(GreeterTest, GreetsByName) {
  auto request = GreeterStub(channel_).Greet();
  names::Person::Builder person = request->initPerson();
  person.setGiven("Ada");
  person.setFamily("Lovelace");
  auto response = request.Send().Wait();
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_STREQ(response->getGreeting().cStr(), "Hello, Ada Lovelace!");
}

TEST_P(GreeterTest, ErrorsReachTheCaller) {
  auto response = GreeterStub(channel_).Greet().Send().Wait();
  EXPECT_EQ(response.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(response.status().message()), testing::HasSubstr("no given name"));
}

TEST_P(GreeterTest, ChannelMayHaveAnEventLoopOfTheProgram) {
  const auto loop =
      *mi7::transport::EventLoop::Create({.wait = mi7::transport::WaitPolicy::kBlock});
  mi7::ChannelOptions options;
  options.event_loop = loop.get();
  std::shared_ptr<mi7::Channel> channel = *mi7::Channel::Create(server_->endpoints()[0], options);
  auto request = GreeterStub(channel).Greet();
  request->initPerson().setGiven("Ada");
  std::promise<bool> in_loop;
  request.Send().Then([&](auto response) {
    EXPECT_TRUE(response.ok()) << response.status();
    in_loop.set_value(loop->InLoopThread());
  });
  EXPECT_TRUE(in_loop.get_future().get());
  channel = nullptr;
}

INSTANTIATE_TEST_SUITE_P(Transports, GreeterTest,
                         testing::Values("inproc:greeter", "tcp:127.0.0.1:0"));

TEST(MockGreeterTest, IsAService) {
  MockGreeterService mock;
  const mi7::Service& service = mock;
  EXPECT_EQ(&service.interface_info(), &GreeterService::info());
}

}  // namespace
}  // namespace greeter
