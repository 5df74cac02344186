// The service through calls: what a stream carries, how it ends, and that readers do not hold up
// each other.

#include <pthread.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/deadline.h"
#include "examples/log_tail/log_tail_impl.h"
#include "rpc/channel.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"

namespace log_tail {
namespace {

using ::testing::HasSubstr;

mi7::CallOptions InTime() { return {.deadline = mi7::Deadline::After(absl::Seconds(60))}; }

class LogTailTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove(path_);
    mi7::ServerBuilder builder;
    builder.AddService(&service_).Listen("inproc:log_tail_test");
    absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
    ASSERT_THAT(server.status(), mi7::IsOk());
    server_ = *std::move(server);
    stub_.emplace(*mi7::Channel::Create("inproc:log_tail_test"));
  }
  void Append(const std::string& text) { std::ofstream(path_, std::ios::app) << text; }
  mi7::StreamReader<Piece> Tail(uint32_t last_lines, bool follow, const char* name = "app") {
    auto request = stub_->Tail(InTime());
    request->setName(name);
    request->setLastLines(last_lines);
    request->setFollow(follow);
    return request.Send();
  }
  // Reads until there are `bytes` bytes, or the stream ends.
  static std::string Read(mi7::StreamReader<Piece>& reader, size_t bytes) {
    std::string text;
    while (text.size() < bytes) {
      auto piece = reader.Read().Wait();
      if (!piece.ok() || !*piece) break;
      const auto data = (*piece)->getData();
      text.append(reinterpret_cast<const char*>(data.begin()), data.size());
    }
    return text;
  }
  // The threads of readers end when these have noticed that nobody reads any more.
  bool AwaitReaders(size_t count) { return service_.AwaitReaders(count, absl::Seconds(60)); }

  const std::string path_ = testing::TempDir() + "/log_tail_test.log";
  LogTailImpl service_{{{"app", path_}, {"missing", "/nonexistent"}, {"dir", testing::TempDir()}}};
  std::unique_ptr<mi7::Server> server_;
  std::optional<LogTailStub> stub_;
};

TEST_F(LogTailTest, ListsLogs) {
  Append("12345\n");
  auto response = stub_->List(InTime()).Send().Wait();
  ASSERT_THAT(response, mi7::IsOk());
  ASSERT_EQ(response->getLogs().size(), 3u);
  EXPECT_EQ(response->getLogs()[0].getName(), "app");
  EXPECT_EQ(response->getLogs()[0].getSize(), 6u);
  EXPECT_EQ(response->getLogs()[2].getName(), "missing");
  EXPECT_EQ(response->getLogs()[2].getSize(), 0u);
}

TEST_F(LogTailTest, EndsAtTheEndUnlessItFollows) {
  Append("one\ntwo\nthree\n");
  auto reader = Tail(2, false);
  EXPECT_EQ(Read(reader, 1000), "two\nthree\n");
  EXPECT_THAT(reader.status(), mi7::IsOk());
  EXPECT_TRUE(AwaitReaders(0));
}

// While it exists, threads are to have more stack than there is address space.
class NoThreads {
 public:
  NoThreads() {
    pthread_getattr_default_np(&before_);
    pthread_attr_t attributes = before_;
    pthread_attr_setstacksize(&attributes, size_t{1} << 50);
    EXPECT_EQ(pthread_setattr_default_np(&attributes), 0);
  }
  ~NoThreads() { pthread_setattr_default_np(&before_); }

 private:
  pthread_attr_t before_;
};

TEST_F(LogTailTest, ReaderThatGetsNoThreadLeavesItsPlace) {
  Append("one\n");
  // The connection has what threads it needs.
  ASSERT_THAT(stub_->List(InTime()).Send().Wait(), mi7::IsOk());
  {
    const NoThreads no_threads;
    for (size_t i = 0; i <= kReadersMax; ++i) {
      auto reader = Tail(1, false);
      EXPECT_EQ(Read(reader, 1), "");
      EXPECT_THAT(reader.status(), mi7::StatusIs(absl::StatusCode::kResourceExhausted,
                                                 HasSubstr("there is no thread")));
    }
  }
  auto reader = Tail(1, false);
  EXPECT_EQ(Read(reader, 1000), "one\n");
}

TEST_F(LogTailTest, SeveralReadersFollow) {
  Append("old\n");
  auto first = Tail(1, true);
  auto second = Tail(0, true);
  EXPECT_EQ(Read(first, 4), "old\n");
  ASSERT_TRUE(AwaitReaders(2));
  Append("new\n");
  EXPECT_EQ(Read(first, 4), "new\n");
  EXPECT_EQ(Read(second, 4), "new\n");
}

TEST_F(LogTailTest, CancelledReaderIsGone) {
  auto reader = Tail(0, true);
  EXPECT_TRUE(AwaitReaders(1));
  reader.Cancel();
  EXPECT_THAT(reader.Read().Wait(), mi7::StatusIs(absl::StatusCode::kCancelled));
  EXPECT_TRUE(AwaitReaders(0));
}

TEST_F(LogTailTest, ReaderThatStandsStillHoldsUpNobody) {
  // Far more than a window.
  const std::string line(99, 'x');
  std::string text;
  while (text.size() < (8u << 20)) text += line + "\n";
  Append(text);
  auto stands = Tail(LAST_LINES_MAX, true);
  EXPECT_EQ(Read(stands, 1).substr(0, 99), line);
  auto reads = Tail(LAST_LINES_MAX, false);
  // Not EXPECT_EQ, which would look for the differing ones among 80,000 lines.
  EXPECT_TRUE(Read(reads, text.size() + 1) == text);
  // And gets the rest when it goes on.
  std::string rest = Read(stands, text.size() - (32 << 10));
  EXPECT_TRUE(rest == text.substr(32 << 10));
}

TEST_F(LogTailTest, TellsWhenTheFileBeginsAnew) {
  Append("a long line\n");
  auto reader = Tail(1, true);
  EXPECT_EQ(Read(reader, 12), "a long line\n");
  std::ofstream(path_, std::ios::trunc) << "new\n";
  auto piece = reader.Read().Wait();
  ASSERT_THAT(piece, mi7::IsOk());
  ASSERT_TRUE(piece->has_value());
  EXPECT_TRUE((*piece)->getRestarted());
  EXPECT_EQ((*piece)->getOffset(), 0u);
}

TEST_F(LogTailTest, RefusesWhatItCannotDo) {
  EXPECT_THAT(Tail(1, true, "other").Read().Wait(),
              mi7::StatusIs(absl::StatusCode::kNotFound,
                            HasSubstr("no log 'other'; there are: app, dir, missing")));
  EXPECT_THAT(
      Tail(LAST_LINES_MAX + 1, true).Read().Wait(),
      mi7::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("ask for at most 100000")));
  EXPECT_THAT(
      Tail(1, true, "dir").Read().Wait(),
      mi7::StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("is no regular file")));
}

TEST_F(LogTailTest, ReadersHaveABound) {
  std::vector<mi7::StreamReader<Piece>> readers;
  for (size_t i = 0; i < kReadersMax; ++i) readers.push_back(Tail(0, true));
  EXPECT_TRUE(AwaitReaders(kReadersMax));
  EXPECT_THAT(Tail(0, true).Read().Wait(), mi7::StatusIs(absl::StatusCode::kResourceExhausted,
                                                         HasSubstr("64 callers read already")));
  readers.pop_back();  // cancels
  EXPECT_TRUE(AwaitReaders(kReadersMax - 1));
  auto reader = Tail(0, true);
  EXPECT_TRUE(AwaitReaders(kReadersMax));
}

TEST_F(LogTailTest, StopEndsTheStreams) {
  auto reader = Tail(0, true);
  EXPECT_TRUE(AwaitReaders(1));
  service_.Stop();
  EXPECT_THAT(reader.Read().Wait(),
              mi7::StatusIs(absl::StatusCode::kUnavailable, HasSubstr("the server stops")));
  EXPECT_THAT(Tail(0, true).Read().Wait(), mi7::StatusIs(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace log_tail
