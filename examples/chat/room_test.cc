// The room through calls: who is told what, and that nobody waits for somebody else.

#include "examples/chat/room.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/deadline.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "transport/event_loop.h"

namespace chat {
namespace {

using ::testing::HasSubstr;

mi7::CallOptions InTime() { return {.deadline = mi7::Deadline::After(absl::Seconds(60))}; }

// Somebody in the room.
class Guest {
 public:
  explicit Guest(const RoomStub& room) : stream_(room.Join(InTime())) {}
  Guest(const RoomStub& room, const std::string& name) : Guest(room) { SendName(name); }

  void SendName(const std::string& name) {
    auto message = stream_.writer().NewMessage();
    message->setName(name);
    stream_.writer().Write(std::move(message)).Wait().IgnoreError();
  }
  void Say(const std::string& text) {
    auto message = stream_.writer().NewMessage();
    message->setText(text);
    EXPECT_THAT(stream_.writer().Write(std::move(message)).Wait(), mi7::IsOk());
  }
  // What is told next, in words; the end's status as text.
  std::string Next() {
    auto message = stream_.reader().Read().Wait();
    if (!message.ok()) return message.status().ToString();
    if (!*message) return "end";
    const FromRoom::Reader news = **message;
    switch (news.which()) {
      case FromRoom::WELCOME:
        return absl::StrCat("welcome ", news.getWelcome().size());
      case FromRoom::JOINED:
        return absl::StrCat(news.getJoined().cStr(), " joined");
      case FromRoom::LEFT:
        return absl::StrCat(news.getLeft().cStr(), " left");
      case FromRoom::SAID:
        return absl::StrCat(news.getSaid().getName().cStr(), ": ", news.getSaid().getText().cStr());
      case FromRoom::MISSED:
        return absl::StrCat("missed ", news.getMissed());
    }
    return "?";
  }
  absl::Status End() { return stream_.reader().Read().Wait().status(); }
  void Close() { stream_.writer().Close(); }
  void Cancel() { stream_.Cancel(); }

 private:
  mi7::BidiStream<ToRoom, FromRoom> stream_;
};

class RoomTest : public testing::Test {
 protected:
  void SetUp() override {
    mi7::ServerBuilder builder;
    builder.AddService(&room_).Listen("inproc:room_test");
    absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
    ASSERT_THAT(server.status(), mi7::IsOk());
    server_ = *std::move(server);
    stub_.emplace(*mi7::Channel::Create("inproc:room_test"));
  }
  std::string Who() {
    auto response = stub_->Who(InTime()).Send().Wait();
    if (!response.ok()) return response.status().ToString();
    std::string names;
    for (capnp::Text::Reader name : response->getNames()) absl::StrAppend(&names, name.cStr(), " ");
    return names;
  }

  const std::unique_ptr<mi7::transport::EventLoop> loop_ =
      *mi7::transport::EventLoop::Create({.name = "room"});
  RoomImpl room_{loop_.get()};
  std::unique_ptr<mi7::Server> server_;
  std::optional<RoomStub> stub_;
};

TEST_F(RoomTest, EverybodyElseIsTold) {
  Guest ann(*stub_, "ann");
  EXPECT_EQ(ann.Next(), "welcome 0");
  Guest bob(*stub_, "bob");
  EXPECT_EQ(bob.Next(), "welcome 1");
  EXPECT_EQ(ann.Next(), "bob joined");
  EXPECT_EQ(Who(), "ann bob ");
  for (int i = 0; i < 10; ++i) ann.Say(absl::StrCat("text ", i));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(bob.Next(), absl::StrCat("ann: text ", i));
  bob.Say("answer");
  EXPECT_EQ(ann.Next(), "bob: answer") << "and nothing of what she has said";
}

TEST_F(RoomTest, WhoHasSaidAllIsToldTheRestAndGoes) {
  Guest ann(*stub_, "ann");
  EXPECT_EQ(ann.Next(), "welcome 0");
  Guest bob(*stub_, "bob");
  EXPECT_EQ(ann.Next(), "bob joined");
  bob.Say("bye");
  bob.Close();
  EXPECT_EQ(bob.Next(), "welcome 1");
  EXPECT_EQ(bob.Next(), "end");
  EXPECT_EQ(ann.Next(), "bob: bye");
  EXPECT_EQ(ann.Next(), "bob left");
  EXPECT_EQ(Who(), "ann ");
}

TEST_F(RoomTest, WhoIsCutOffGoes) {
  Guest ann(*stub_, "ann");
  EXPECT_EQ(ann.Next(), "welcome 0");
  Guest bob(*stub_, "bob");
  EXPECT_EQ(bob.Next(), "welcome 1");
  bob.Cancel();
  EXPECT_EQ(ann.Next(), "bob joined");
  EXPECT_EQ(ann.Next(), "bob left");
  Guest again(*stub_, "bob");
  EXPECT_EQ(again.Next(), "welcome 1") << "the name is free";
}

TEST_F(RoomTest, RefusesWhatIsNotAName) {
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  for (const std::string& name : {std::string(), std::string("a b"), std::string(33, 'x')}) {
    EXPECT_THAT(Guest(*stub_, name).End(),
                mi7::StatusIs(invalid, HasSubstr("1 to 32 letters, digits, - and _")));
  }
  Guest hasty(*stub_);
  hasty.Say("text");
  EXPECT_THAT(hasty.End(), mi7::StatusIs(invalid, HasSubstr("the first message is a name")));
  Guest silent(*stub_);
  silent.Close();
  EXPECT_THAT(silent.End(), mi7::StatusIs(invalid, HasSubstr("the first message is a name")));
  EXPECT_EQ(Who(), "");
}

TEST_F(RoomTest, RefusesASecondOfTheSameName) {
  Guest ann(*stub_, "ann");
  EXPECT_EQ(ann.Next(), "welcome 0");
  EXPECT_THAT(Guest(*stub_, "ann").End(),
              mi7::StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("there is a ann")));
}

TEST_F(RoomTest, RefusesWhatIsNotAText) {
  Guest ann(*stub_, "ann");
  EXPECT_EQ(ann.Next(), "welcome 0");
  ann.SendName("bob");
  EXPECT_THAT(ann.End(), mi7::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("a text")));
  Guest bob(*stub_, "bob");
  EXPECT_EQ(bob.Next(), "welcome 0") << "ann is gone";
  bob.Say(std::string(TEXT_BYTES_MAX, 'x'));
  bob.Say(std::string(TEXT_BYTES_MAX + 1, 'x'));
  EXPECT_THAT(bob.End(),
              mi7::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 2000")));
}

TEST_F(RoomTest, WhoDoesNotReadHoldsUpNobody) {
  Guest ann(*stub_, "ann");
  EXPECT_EQ(ann.Next(), "welcome 0");
  Guest bob(*stub_, "bob");
  EXPECT_EQ(ann.Next(), "bob joined");
  EXPECT_EQ(bob.Next(), "welcome 1");
  Guest carol(*stub_, "carol");
  EXPECT_EQ(bob.Next(), "carol joined");
  EXPECT_EQ(ann.Next(), "carol joined");
  EXPECT_EQ(carol.Next(), "welcome 2");
  // Carol does not read what is much more than a window and her queue.
  const std::string filler(1900, 'x');
  constexpr int kTexts = 2000;
  for (int i = 0; i < kTexts; ++i) {
    const std::string text = absl::StrCat(i, " ", filler);
    ann.Say(text);
    ASSERT_EQ(bob.Next(), absl::StrCat("ann: ", text)) << "in time, and all";
  }
  // Then she gets what was kept for her, in order, and how much she has missed.
  int got = 0;
  std::string next = carol.Next();
  while (next == absl::StrCat("ann: ", got, " ", filler)) {
    if (++got == 100) ann.Say("are you there?");
    next = carol.Next();
  }
  EXPECT_GE(got, 100);
  EXPECT_EQ(next, absl::StrCat("missed ", kTexts - got));
  EXPECT_EQ(carol.Next(), "ann: are you there?");
}

TEST_F(RoomTest, ClosingEndsTheStreams) {
  Guest ann(*stub_, "ann");
  EXPECT_EQ(ann.Next(), "welcome 0");
  room_.Close();
  const auto closes =
      mi7::StatusIs(absl::StatusCode::kUnavailable, HasSubstr("join: the room closes"));
  EXPECT_THAT(ann.End(), closes);
  EXPECT_THAT(Guest(*stub_, "bob").End(), closes);
  EXPECT_THAT(server_->Shutdown(InTime().deadline), mi7::IsOk());
}

}  // namespace
}  // namespace chat
