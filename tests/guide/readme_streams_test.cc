// What README.md shows of streams, which guide_test.sh compares with this file and store.capnp.

#include <iostream>
#include <optional>
#include <sstream>
#include <streambuf>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "rpc/status_testing.h"
#include "rpc/task.h"
#include "rpc/testing/in_process.h"
#include "tests/guide/store.mi7.h"

namespace store {
namespace {

struct Change {
  std::string key;
};

class StoreImpl : public StoreService {
 public:
  mi7::Reply Watch(mi7::ServerContext&, Store::WatchParams::Reader params,
                   mi7::StreamWriter<Store::WatchResults> writer) override {
    while (auto change = co_await NextChange(params.getPrefix())) {
      auto message = writer.NewMessage();  // a builder, in the transport's own memory
      message->setKey(change->key);
      absl::Status sent = co_await writer.Write(std::move(message));
      if (!sent.ok()) co_return sent;  // the caller has cancelled, or is gone
    }
    co_return absl::OkStatus();  // ends the stream
  }

  mi7::Reply Load(mi7::ServerContext&, mi7::StreamReader<Store::LoadParams> reader,
                  Store::LoadResults::Builder results) override {
    for (;;) {
      auto message = co_await reader.Read();
      if (!message.ok()) co_return message.status();
      if (!*message) co_return absl::OkStatus();
      results.setCount(results.getCount() + 1);
    }
  }

  mi7::Reply Chat(mi7::ServerContext&, mi7::StreamReader<Store::ChatParams> reader,
                  mi7::StreamWriter<Store::ChatResults> writer) override {
    auto message = co_await reader.Read();
    if (!message.ok() || !*message) co_return message.status();
    auto answer = writer.NewMessage();
    answer->setText((*message)->getText());
    co_return co_await writer.Write(std::move(answer));
  }

 private:
  // Three keys with the prefix.
  mi7::Task<std::optional<Change>> NextChange(capnp::Text::Reader prefix) {
    if (changes_ == 3) co_return std::nullopt;
    co_return Change{std::string(prefix.cStr()) + std::to_string(++changes_)};
  }
  int changes_ = 0;
};

absl::Status UseStore(StoreStub store) {
  auto request = store.Watch({.deadline = mi7::Deadline::After(absl::Hours(1))});
  request->setPrefix("a");
  auto reader = request.Send();
  for (const auto& message : reader.Messages()) std::cout << message.getKey().cStr() << "\n";
  if (!reader.status().ok()) return reader.status();  // how the stream ended

  auto load = store.Load();
  auto message = load.NewMessage();
  message->setKey("b");
  absl::Status sent = load.Write(std::move(message)).Wait();
  auto response = load.Finish().Wait();  // the one result, or the status

  auto chat = store.Chat();  // chat.reader(), chat.writer(): two threads

  EXPECT_THAT(sent, mi7::IsOk());
  if (!response.ok()) return response.status();
  EXPECT_EQ(response->getCount(), 1u);
  auto said = chat.writer().NewMessage();
  said->setText("hello");
  EXPECT_THAT(chat.writer().Write(std::move(said)).Wait(), mi7::IsOk());
  auto heard = chat.reader().Read().Wait();
  if (!heard.ok()) return heard.status();
  EXPECT_TRUE(*heard && (*heard)->getText() == "hello");
  return absl::OkStatus();
}

TEST(ReadmeStreams, AreAsItShows) {
  StoreImpl service;
  mi7::InProcess in_process(&service);
  std::ostringstream printed;
  std::streambuf* const terminal = std::cout.rdbuf(printed.rdbuf());
  const absl::Status used = UseStore(in_process.stub<StoreStub>());
  std::cout.rdbuf(terminal);
  EXPECT_THAT(used, mi7::IsOk());
  EXPECT_EQ(printed.str(), "a1\na2\na3\n");
}

}  // namespace
}  // namespace store
