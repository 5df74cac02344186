// A server that is restarted again and again under load, each time with a successor, in a process
// of its own, that takes over before its predecessor shuts down: no call is lost, none runs twice,
// and who makes calls does not even notice.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/time.h"
#include "rpc/channel.h"
#include "rpc/status_testing.h"
#include "tests/restart/ledger.mi7.h"
#include "tests/restart/ledger_file.h"
#include "transport/local/testing.h"

namespace mi7::restart {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr int kRestarts = 6;
constexpr uint64_t kNotes = 50;

// Of all tests.
uint64_t calls_repeated_in_all = 0;
uint64_t streams_repeated_in_all = 0;

// A server process.
class Instance {
 public:
  Instance(const std::string& endpoint, const std::string& ledger) {
    int in[2], out[2];
    MI7_CHECK(::pipe(in) == 0 && ::pipe(out) == 0, "a pipe can be made");
    process_ = ::fork();
    MI7_CHECK(process_ >= 0, "a process can be made");
    if (process_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      // Not only its own: it must not keep its predecessor's input open.
      for (int fd = 3; fd < 1024; ++fd) ::close(fd);
      ::execl("tests/restart/ledger_server", "ledger_server", endpoint.c_str(), ledger.c_str(),
              nullptr);
      ::_exit(3);
    }
    ::close(in[0]);
    ::close(out[1]);
    input_ = in[1];
    for (char c; ::read(out[0], &c, 1) == 1 && c != '\n';) endpoint_ += c;
    ::close(out[0]);
  }
  ~Instance() { End(); }
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  // Empty: it does not listen.
  const std::string& endpoint() const { return endpoint_; }
  pid_t process() const { return process_; }
  // Lets it begin to shut down, and go on as long as calls of hold are in flight.
  void BeginToEnd() { MI7_CHECK(::write(input_, "", 1) == 1, "it listens to us"); }
  // Lets it shut down; its exit code.
  int End() {
    if (process_ < 0) return -1;
    ::close(input_);
    int status = 0;
    ::waitpid(std::exchange(process_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t process_;
  int input_;
  std::string endpoint_;
};

struct Case {
  const char* name;
  std::function<std::string(const std::string& directory)> endpoint;
};

class RollingRestartTest : public testing::TestWithParam<Case> {
 protected:
  RollingRestartTest() {
    ::setenv("MI7_RUNTIME_DIR", directory_.path().c_str(), 1);
    ledger_path_ = directory_ / "ledger";
    instance_ = std::make_unique<Instance>(GetParam().endpoint(directory_.path()), ledger_path_);
    endpoint_ = instance_->endpoint();
  }

  std::shared_ptr<Channel> NewChannel() const { return *Channel::Create(endpoint_); }

  // Makes calls until the end. `call` makes one with the number given.
  void Load(const std::function<absl::Status(uint64_t number)>& call) {
    while (!stop_) {
      const absl::Status status = call(next_number_.fetch_add(1000));
      if (status.ok()) ++done_;
      ++made_;
    }
  }
  // The same of streams. Each is done, if need be because mi7 has made it again.
  void LoadOfStreams(const std::function<absl::Status(uint64_t number)>& call) {
    Load([&](uint64_t number) {
      const absl::Status status = call(number);
      EXPECT_THAT(status, IsOk()) << "stream " << number;
      if (!status.ok()) failed_ = true;
      return status;
    });
  }

  // How a call that is no stream ended: as streams do.
  absl::Status Ended(uint64_t number, const absl::StatusOr<Response<Done>>& done) {
    EXPECT_THAT(done, IsOk()) << "call " << number;
    if (!done.ok()) {
      failed_ = true;
      return done.status();
    }
    if (done->getServer() == successor_) ++done_by_successor_;
    EXPECT_EQ(done->getNumber(), number);
    if (done->getAttempt() > 1) ++repeated_;
    return absl::OkStatus();
  }

  // A thread that blocks in each call.
  template <typename NewRequest>
  void BlockingCalls(NewRequest new_request) {
    const LedgerStub stub(NewChannel());
    Load([&](uint64_t number) {
      auto request = new_request(stub);
      request->setNumber(number);
      return Ended(number, request.Send().Wait());
    });
  }

  // Calls of a channel that all are in flight together.
  void Bursts() {
    const LedgerStub stub(NewChannel());
    constexpr uint64_t kBurst = 64;
    while (!stop_) {
      absl::BlockingCounter all(static_cast<int>(kBurst));
      for (uint64_t i = 0; i < kBurst; ++i) {
        const uint64_t number = next_number_.fetch_add(1000);
        auto request = stub.Late();
        request->setNumber(number);
        request.Send().Then([&, number](const auto& done) {
          if (Ended(number, done).ok()) ++done_;
          all.DecrementCount();
        });
      }
      all.Wait();
      made_ += kBurst;
    }
  }

  // `-> stream` calls.
  void Notes() {
    const LedgerStub stub(NewChannel());
    while (!stop_) {
      const uint64_t first = next_number_.fetch_add(1000);
      for (uint64_t i = 0; i < kNotes; ++i) {
        auto request = stub.Note();
        request->setNumber(first + i);
        if (!request.Send().Wait().ok()) break;  // FinishStream says why
      }
      const absl::Status finished = stub.FinishStream().Wait();
      EXPECT_THAT(finished, IsOk()) << "the series " << first;
      if (!finished.ok()) {
        failed_ = true;
        return;
      }
      series_.push_back(first);
      made_ += kNotes;
      done_ += kNotes;
    }
  }
  // Whether each series has run in its order, whichever servers it went to.
  testing::AssertionResult SeriesAreInOrder(const std::vector<uint64_t>& ledger) const {
    absl::flat_hash_map<uint64_t, uint64_t> next;
    for (const uint64_t first : series_) next[first] = first;
    for (const uint64_t number : ledger) {
      const auto of = next.find(number - number % 1000);
      if (of == next.end()) continue;
      if (of->second++ != number) return testing::AssertionFailure() << "not as sent: " << number;
    }
    return testing::AssertionSuccess();
  }

  void Chats() {
    const auto channel = NewChannel();
    LoadOfStreams([&](uint64_t number) {
      auto chat = LedgerStub(channel).Chat();
      for (uint64_t i = 0; i < 50; ++i) {
        auto message = chat.writer().NewMessage();
        message->setNumber(number + i);
        if (!chat.writer().Write(std::move(message)).Wait().ok()) break;  // Read says why
        const auto back = chat.reader().Read().Wait();
        if (!back.ok()) return back.status();
        EXPECT_TRUE(*back && (**back).getNumber() == number + i);
        if (i == 0 && *back && (**back).getAttempt() > 1) ++streams_repeated_;
      }
      chat.writer().Close();
      return chat.reader().Read().Wait().status();
    });
  }

  void Lists() {
    const auto channel = NewChannel();
    LoadOfStreams([&](uint64_t number) {
      constexpr uint32_t kCount = 200;
      auto request = LedgerStub(channel).List();
      request->setNumber(number);
      request->setCount(kCount);
      auto reader = request.Send();
      for (uint64_t i = 0;; ++i) {
        const auto message = reader.Read().Wait();
        if (!message.ok()) return message.status();
        if (!*message) {
          EXPECT_EQ(i, kCount);
          return absl::OkStatus();
        }
        EXPECT_EQ((*message)->getNumber(), number + i);
        if (i == 0 && (*message)->getAttempt() > 1) ++streams_repeated_;
      }
    });
  }

  void Sums() {
    const auto channel = NewChannel();
    LoadOfStreams([&](uint64_t number) {
      auto stream = LedgerStub(channel).Sum();
      uint64_t sum = 0;
      for (uint64_t i = 0; i < 100; ++i) {
        auto message = stream.NewMessage();
        message->setNumber(number + i);
        sum += number + i;
        if (!stream.Write(std::move(message)).Wait().ok()) break;  // Finish says why
      }
      const auto results = stream.Finish().Wait();
      EXPECT_TRUE(!results.ok() || results->getSum() == sum);
      return results.status();
    });
  }

  // Waits until so many calls more are done, with every kind of load going on; not for what does
  // not come any more.
  testing::AssertionResult Goes(uint64_t calls) { return Rises(done_, done_ + calls); }
  testing::AssertionResult Rises(const std::atomic<uint64_t>& count, uint64_t until) {
    const Deadline patience = Deadline::After(kPatience);
    while (count < until) {
      if (failed_) return testing::AssertionFailure() << "a call has failed";
      if (patience.passed()) return testing::AssertionFailure() << count << " calls are done";
      std::this_thread::yield();
    }
    return testing::AssertionSuccess();
  }

  // A server follows the last one.
  void Restart() {
    auto successor = std::make_unique<Instance>(endpoint_, ledger_path_);
    EXPECT_EQ(successor->endpoint(), endpoint_);
    EXPECT_EQ(instance_->End(), 0) << "a call was cut off";
    instance_ = std::move(successor);
  }
  // The same, but the last one goes on shutting down, and refuses calls, until its successor has
  // answered many.
  void RestartSlowly() {
    const LedgerStub to_predecessor(NewChannel());
    const uint64_t number = next_number_.fetch_add(1000);
    auto request = to_predecessor.Hold();
    request->setNumber(number);
    auto held = request.Send();
    const Deadline patience = Deadline::After(kPatience);
    const auto has_come = [this, number] {
      const std::vector<uint64_t> numbers = LedgerFile(ledger_path_).ReadAll();
      return std::find(numbers.begin(), numbers.end(), number) != numbers.end();
    };
    while (!has_come()) {
      if (!patience.passed()) continue;
      failed_ = true;
      FAIL() << "the call does not arrive";
    }
    auto successor = std::make_unique<Instance>(endpoint_, ledger_path_);
    EXPECT_EQ(successor->endpoint(), endpoint_);
    successor_ = successor->process();
    const uint64_t by_successor = done_by_successor_;
    instance_->BeginToEnd();
    EXPECT_TRUE(Rises(done_by_successor_, by_successor + 200));
    EXPECT_EQ(instance_->End(), 0) << "a call was cut off";
    instance_ = std::move(successor);
    EXPECT_THAT(held.Wait(), IsOk());
    ++made_;
    ++done_;
  }

  const transport::testing::TemporaryDirectory directory_;
  std::string ledger_path_;
  std::unique_ptr<Instance> instance_;
  std::string endpoint_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> next_number_{1000};
  std::atomic<uint64_t> made_{0}, done_{0};
  std::atomic<pid_t> successor_{0};
  std::atomic<uint64_t> done_by_successor_{0};  // of those that are no streams
  std::atomic<bool> failed_{false};
  std::atomic<uint64_t> repeated_{0};  // calls that are no streams
  std::atomic<uint64_t> streams_repeated_{0};
  std::vector<uint64_t> series_;  // of kNotes `-> stream` calls each; its thread's
};

TEST_P(RollingRestartTest, NoCallIsLostAndNoneRunsTwice) {
  ASSERT_NE(endpoint_, "");
  std::vector<std::thread> clients;
  const std::string data(8 << 10, 'x');
  // Counted among what the channel keeps.
  const std::string bulk(200'000, 'x');
  clients.emplace_back(
      [this] { BlockingCalls([](const LedgerStub& stub) { return stub.Inline(); }); });
  clients.emplace_back(
      [this] { BlockingCalls([](const LedgerStub& stub) { return stub.Late(); }); });
  clients.emplace_back([this, &data] {
    BlockingCalls([&data](const LedgerStub& stub) {
      auto request = stub.Large();
      request->setData({reinterpret_cast<const kj::byte*>(data.data()), data.size()});
      return request;
    });
  });
  clients.emplace_back([this, &bulk] {
    BlockingCalls([&bulk](const LedgerStub& stub) {
      auto request = stub.Bulk();
      request->setData({reinterpret_cast<const kj::byte*>(bulk.data()), bulk.size()});
      return request;
    });
  });
  clients.emplace_back(
      [this] { BlockingCalls([](const LedgerStub& stub) { return stub.Once(); }); });
  clients.emplace_back([this] { Bursts(); });
  clients.emplace_back([this] { Lists(); });
  clients.emplace_back([this] { Sums(); });
  clients.emplace_back([this] { Chats(); });
  clients.emplace_back([this] { Notes(); });
  for (int i = 0; i < kRestarts && !failed_; ++i) {
    EXPECT_TRUE(Goes(500));
    if (i % 2 == 0) {
      RestartSlowly();
    } else {
      Restart();
    }
  }
  EXPECT_TRUE(Goes(500));
  stop_ = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(instance_->End(), 0);

  const std::vector<uint64_t> ledger = LedgerFile(ledger_path_).ReadAll();
  EXPECT_TRUE(SeriesAreInOrder(ledger));
  absl::flat_hash_map<uint64_t, int> runs;
  for (const uint64_t number : ledger) ++runs[number];
  for (const auto& [number, count] : runs) EXPECT_EQ(count, 1) << "call " << number;
  EXPECT_EQ(done_, made_);
  EXPECT_EQ(runs.size(), made_);
  calls_repeated_in_all += repeated_;
  streams_repeated_in_all += streams_repeated_;
  RecordProperty("calls", static_cast<int>(made_));
  RecordProperty("calls_repeated", static_cast<int>(repeated_));
  RecordProperty("streams_repeated", static_cast<int>(streams_repeated_));
  std::printf("%d calls; made again: %d calls, %d streams\n", static_cast<int>(made_),
              static_cast<int>(repeated_), static_cast<int>(streams_repeated_));
}

// After the tests above, of which each may find its moments without a call on its way. Not all:
// then nothing was seen of what happens to calls that a server does not accept any more.
class RepeatedCalls final : public testing::Environment {
  void TearDown() override {
    const auto* const test = testing::UnitTest::GetInstance();
    if (test->successful_test_count() == 0) return;
    if (calls_repeated_in_all == 0) ADD_FAILURE() << "no call was repeated";
    if (test->successful_test_count() > 1 && streams_repeated_in_all == 0) {
      ADD_FAILURE() << "no stream was repeated";
    }
  }
};
const auto* const kRepeatedCalls = testing::AddGlobalTestEnvironment(new RepeatedCalls);

std::string Port(const std::string&) { return "tcp:127.0.0.1:0"; }
std::string UnixPath(const std::string& directory) {
  return absl::StrCat("unix:", directory, "/u");
}
std::string ShmPath(const std::string& directory) { return absl::StrCat("shm:", directory, "/s"); }
std::string ShmName(const std::string&) { return "shm:ledger"; }
std::string Mi7Port(const std::string&) { return "mi7://127.0.0.1:0"; }

INSTANTIATE_TEST_SUITE_P(Transports, RollingRestartTest,
                         testing::Values(Case{"tcp", Port}, Case{"unix", UnixPath},
                                         Case{"shm", ShmPath}, Case{"shm_name", ShmName},
                                         Case{"mi7", Mi7Port}),
                         [](const auto& of) { return std::string(of.param.name); });

}  // namespace
}  // namespace mi7::restart
