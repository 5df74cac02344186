// Calls through generated stubs reach the right handlers of generated services: own and inherited
// methods, generic interfaces, and mocks.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "tests/golden/extends.mi7.h"
#include "tests/golden/generic_extends.mi7.h"
#include "tests/golden/generics.mi7.mock.h"
#include "tests/golden/messages.mi7.mock.h"
#include "tests/golden/streaming.mi7.mock.h"

namespace {

using golden::extends::FileService;
using golden::extends::FileStub;
using golden::generics::Item;
using ::testing::_;
using ::testing::HasSubstr;

// One service behind an in-process endpoint of its own.
class Served {
 public:
  explicit Served(mi7::Service* service) {
    static int count = 0;
    const std::string endpoint = "inproc:dispatch-test-" + std::to_string(count++);
    auto server = mi7::ServerBuilder().AddService(service).Listen(endpoint).Start();
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto channel = mi7::Channel::Create(endpoint);
    EXPECT_TRUE(channel.ok()) << channel.status();
    channel_ = *std::move(channel);
  }
  ~Served() {
    channel_->Close();
    EXPECT_TRUE(server_->Shutdown(mi7::Deadline::After(absl::Seconds(20))).ok());
  }
  const std::shared_ptr<mi7::Channel>& channel() const { return channel_; }

 private:
  std::unique_ptr<mi7::Server> server_;
  std::shared_ptr<mi7::Channel> channel_;
};

// Notes which handler ran. Size and Reset_Sized are left to the skeleton.
class NotingFile : public FileService {
 public:
  mi7::Reply Reset(mi7::ServerContext&, golden::extends::File::ResetParams::Reader params,
                   golden::extends::File::ResetResults::Builder) override {
    ran = params.getHard() ? "Reset hard" : "Reset";
    return absl::OkStatus();
  }
  mi7::Reply Name(mi7::ServerContext&, golden::base::Named::NameParams::Reader,
                  golden::base::Named::NameResults::Builder results) override {
    ran = "Name";
    results.setName("a file");
    return absl::OkStatus();
  }
  mi7::Reply Close_Named(mi7::ServerContext&, golden::base::Named::CloseParams::Reader,
                         golden::base::Named::CloseResults::Builder) override {
    ran = "Close_Named";
    return absl::OkStatus();
  }
  mi7::Reply Close_Sized(mi7::ServerContext&, golden::extends::Sized::CloseParams::Reader params,
                         golden::extends::Sized::CloseResults::Builder) override {
    ran = params.getFlush() ? "Close_Sized flush" : "Close_Sized";
    return absl::OkStatus();
  }
  mi7::Reply Id(mi7::ServerContext&, golden::base::Root::IdParams::Reader,
                golden::base::Root::IdResults::Builder results) override {
    ran = "Id";
    results.setId("id of a file");
    return absl::OkStatus();
  }

  std::string ran;
};

TEST(Dispatch, EachInheritedMethodReachesItsOwnHandler) {
  NotingFile file;
  Served served(&file);
  const FileStub stub(served.channel());

  auto reset = stub.Reset();
  reset->setHard(true);
  EXPECT_TRUE(reset.Send().Wait().ok());
  EXPECT_EQ(file.ran, "Reset hard");

  auto name = stub.Name().Send().Wait();
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(std::string(name->getName().cStr()), "a file");

  EXPECT_TRUE(stub.Close_Named().Send().Wait().ok());
  EXPECT_EQ(file.ran, "Close_Named");

  auto close = stub.Close_Sized();
  close->setFlush(true);
  EXPECT_TRUE(close.Send().Wait().ok());
  EXPECT_EQ(file.ran, "Close_Sized flush");

  auto id = stub.Id().Send().Wait();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(std::string(id->getId().cStr()), "id of a file");
}

TEST(Dispatch, MethodThatIsNotOverriddenAnswersUnimplementedAndNamesIt) {
  NotingFile file;
  Served served(&file);
  const FileStub stub(served.channel());

  const absl::Status size = stub.Size().Send().Wait().status();
  EXPECT_EQ(size.code(), absl::StatusCode::kUnimplemented) << size;
  EXPECT_THAT(std::string(size.message()), HasSubstr("Sized.size"));

  const absl::Status reset = stub.Reset_Sized().Send().Wait().status();
  EXPECT_EQ(reset.code(), absl::StatusCode::kUnimplemented) << reset;
  EXPECT_THAT(std::string(reset.message()), HasSubstr("Sized.reset"));
  EXPECT_EQ(file.ran, "");
}

class ItemStore : public golden::generics::ItemsService {
 public:
  using Store = golden::generics::Store<capnp::Text, Item>;

  mi7::Reply Get(mi7::ServerContext&, Store::GetParams::Reader params,
                 Store::GetResults::Builder results) override {
    results.initValue().setName(params.getKey());
    return absl::OkStatus();
  }
  mi7::Reply Convert(mi7::ServerContext&, Store::ConvertParams<>::Reader params,
                     Store::ConvertResults<>::Builder results) override {
    results.getResult().set(params.getLike());
    return absl::OkStatus();
  }
  mi7::Reply First(mi7::ServerContext&, golden::generics::Items::FirstParams::Reader,
                   golden::generics::Pair<capnp::Text, Item>::Builder results) override {
    results.setFirst("key");
    results.initSecond().setName("item");
    return absl::OkStatus();
  }
};

TEST(Dispatch, BoundGenericBaseCarriesItsTypes) {
  ItemStore store;
  Served served(&store);
  const golden::generics::ItemsStub stub(served.channel());

  auto get = stub.Get();
  get->setKey("a key");
  auto got = get.Send().Wait();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(std::string(got->getValue().getName().cStr()), "a key");

  auto first = stub.First().Send().Wait();
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(std::string(first->getFirst().cStr()), "key");
  EXPECT_EQ(std::string(first->getSecond().getName().cStr()), "item");

  auto convert = stub.Convert();
  convert->getLike().setAs<capnp::Text>("any type");
  auto converted = convert.Send().Wait();
  ASSERT_TRUE(converted.ok()) << converted.status();
  EXPECT_EQ(std::string(converted->getResult().getAs<capnp::Text>().cStr()), "any type");
}

TEST(Dispatch, GenericInterfaceIsServedForAnyArguments) {
  golden::generics::MockStoreService<capnp::Text, capnp::Data> store;
  Served served(&store);
  const golden::generics::StoreStub<capnp::Text, capnp::Data> stub(served.channel());
  EXPECT_CALL(store, Get).WillOnce([](auto&, auto params, auto results) {
    results.initValue(params.getKey().size());
    return mi7::Reply(absl::OkStatus());
  });

  auto get = stub.Get();
  get->setKey("four");
  auto got = get.Send().Wait();
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->getValue().size(), 4u);
}

TEST(Mock, ExpectsCallsAndAnswersThem) {
  golden::messages::MockDirectoryService directory;
  Served served(&directory);
  const golden::messages::DirectoryStub stub(served.channel());
  EXPECT_CALL(directory, Add(_, _, _)).WillOnce([](auto&, auto person, auto results) {
    EXPECT_EQ(std::string(person.getName().cStr()), "Ada");
    results.setId(7);
    return mi7::Reply(absl::OkStatus());
  });
  EXPECT_CALL(directory, Ping).WillOnce([](auto&&...) {
    return mi7::Reply(absl::UnavailableError("gone fishing"));
  });

  auto add = stub.Add();
  add->setName("Ada");
  auto added = add.Send().Wait();
  ASSERT_TRUE(added.ok()) << added.status();
  EXPECT_EQ(added->getId(), 7u);

  const absl::Status ping = stub.Ping().Send().Wait().status();
  EXPECT_EQ(ping.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(ping.message()), HasSubstr("gone fishing"));
}

TEST(Mock, ExpectedCallWithoutActionIsUnimplemented) {
  golden::messages::MockDirectoryService directory;
  Served served(&directory);
  const golden::messages::DirectoryStub stub(served.channel());
  EXPECT_CALL(directory, Ping);
  EXPECT_EQ(stub.Ping().Send().Wait().status().code(), absl::StatusCode::kUnimplemented);
}

// What a mock of a streaming method does is a coroutine, as in a service.
mi7::Reply SendLines(std::string prefix, mi7::StreamWriter<golden::streaming::Line> writer) {
  for (const char* const text : {" one", " two"}) {
    auto line = writer.NewMessage();
    line->setText(prefix + text);
    if (absl::Status sent = co_await writer.Write(std::move(line)); !sent.ok()) co_return sent;
  }
  co_return absl::OkStatus();
}

mi7::Reply CountLines(mi7::StreamReader<golden::streaming::Line> reader,
                      golden::streaming::Log::AppendResults::Builder results) {
  for (;;) {
    const auto line = co_await reader.Read();
    if (!line.ok()) co_return line.status();
    if (!*line) co_return absl::OkStatus();
    results.setCount(results.getCount() + 1);
  }
}

TEST(Mock, ExpectsStreamsAndAnswersThem) {
  using golden::streaming::Line;
  golden::streaming::MockLogService log;
  Served served(&log);
  const golden::streaming::LogStub stub(served.channel());
  EXPECT_CALL(log, Follow).WillOnce([](auto&, auto params, auto writer) {
    return SendLines(params.getPrefix(), std::move(writer));
  });
  EXPECT_CALL(log, Append).WillOnce([](auto&, auto reader, auto results) {
    return CountLines(std::move(reader), results);
  });
  EXPECT_CALL(log, Grep).WillOnce(
      [](auto&&...) { return mi7::Reply(absl::UnavailableError("gone fishing")); });

  auto follow = stub.Follow();
  follow->setPrefix("line");
  auto lines = follow.Send();
  std::vector<std::string> texts;
  for (const auto& line : lines.Messages()) texts.emplace_back(line.getText().cStr());
  EXPECT_TRUE(lines.status().ok()) << lines.status();
  EXPECT_THAT(texts, ::testing::ElementsAre("line one", "line two"));

  auto append = stub.Append();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(append.Write(append.NewMessage()).Wait().ok());
  }
  const auto appended = append.Finish().Wait();
  ASSERT_TRUE(appended.ok()) << appended.status();
  EXPECT_EQ(appended->getCount(), 3u);

  auto grep = stub.Grep();
  EXPECT_EQ(grep.reader().Read().Wait().status().code(), absl::StatusCode::kUnavailable);
}

TEST(Mock, ExpectsCallsThatAreAStream) {
  golden::streaming::MockSinkService mock;
  Served served(&mock);
  golden::streaming::SinkStub sink(served.channel());
  EXPECT_CALL(mock, Write).Times(2).WillRepeatedly([](auto&, auto) {
    return mi7::Reply(absl::OkStatus());
  });
  for (int i = 0; i < 2; ++i) {
    auto part = sink.Write();
    ASSERT_TRUE(part.Send().Wait().ok());
  }
  EXPECT_TRUE(sink.FinishStream().Wait().ok());
}

}  // namespace
