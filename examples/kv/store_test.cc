// The store through calls: what those who watch are told, and what is refused.

#include "examples/kv/store.h"

#include <sqlite3.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/deadline.h"
#include "base/fake_clock.h"
#include "rpc/channel.h"
#include "rpc/retry_info.h"
#include "rpc/retry_policy.h"
#include "rpc/server.h"
#include "rpc/status_testing.h"
#include "transport/fault/fault_script.h"

namespace kv {
namespace {

using ::testing::HasSubstr;

mi7::CallOptions InTime() { return {.deadline = mi7::Deadline::After(absl::Seconds(60))}; }

// Where the thread that has the database can be made to wait, as a slow disk makes it: inside the
// commit of a change.
class Gate {
 public:
  void Shut() {
    absl::MutexLock lock(&mutex_);
    shut_ = true;
  }
  void Open() {
    absl::MutexLock lock(&mutex_);
    shut_ = false;
  }
  // Until a change waits there.
  bool AwaitChange() {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&waits_), absl::Seconds(60));
  }

  // Has all databases that are opened from now on pass through the gate.
  static void Build() { sqlite3_auto_extension(reinterpret_cast<void (*)()>(&OnOpen)); }
  static Gate& Get() {
    static Gate gate;
    return gate;
  }

 private:
  static int OnOpen(sqlite3* database, char**, const sqlite3_api_routines*) {
    const auto on_commit = [](void*) {
      Get().Pass();
      return 0;
    };
    sqlite3_commit_hook(database, on_commit, nullptr);
    return SQLITE_OK;
  }
  bool IsOpen() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return !shut_; }
  void Pass() {
    absl::MutexLock lock(&mutex_);
    waits_ = true;
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(this, &Gate::IsOpen), absl::Seconds(120)));
    waits_ = false;
  }

  absl::Mutex mutex_;
  bool shut_ ABSL_GUARDED_BY(mutex_) = false;
  bool waits_ ABSL_GUARDED_BY(mutex_) = false;
};

class StoreTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { Gate::Build(); }
  void SetUp() override {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    Start();
  }
  void TearDown() override {
    Gate::Get().Open();
    Stop();
    std::filesystem::remove_all(directory_);
  }
  void Start() {
    absl::StatusOr<std::unique_ptr<Database>> database =
        Database::Open(directory_ + "/store.db", {.removed_max = 4});
    ASSERT_THAT(database, mi7::IsOk());
    store_ = std::make_unique<StoreImpl>(*std::move(database));
    mi7::ServerBuilder builder;
    mi7::ServerOptions options;
    options.decorator = faults_;
    builder.SetOptions(options);
    builder.AddService(store_.get()).Listen("inproc:store_test");
    absl::StatusOr<std::unique_ptr<mi7::Server>> server = builder.Start();
    ASSERT_THAT(server, mi7::IsOk());
    server_ = *std::move(server);
    stub_.emplace(*mi7::Channel::Create("inproc:store_test"));
  }
  void Stop() {
    stub_.reset();
    server_.reset();
    store_.reset();
  }

  mi7::PendingCall<Store::PutResults> SendPut(const std::string& key, const std::string& value,
                                              const mi7::CallOptions& options = {},
                                              std::optional<uint64_t> expected = std::nullopt) {
    auto request = stub_->Put(options);
    request->setKey(key);
    request->setValue({reinterpret_cast<const kj::byte*>(value.data()), value.size()});
    if (expected.has_value()) request->initCondition().setRevision(*expected);
    return request.Send();
  }
  absl::StatusOr<uint64_t> Put(const std::string& key, const std::string& value,
                               std::optional<uint64_t> expected = std::nullopt) {
    auto response = SendPut(key, value, InTime(), expected).Wait();
    if (!response.ok()) return response.status();
    return response->getRevision();
  }
  // Whether the server has read all that was sent before, by a call that it refuses without the
  // disk.
  testing::AssertionResult HasReadAll() {
    const absl::Status refused = Put("", "x").status();
    if (absl::IsInvalidArgument(refused)) return testing::AssertionSuccess();
    return testing::AssertionFailure() << refused;
  }
  absl::Status Remove(const std::string& key) {
    auto request = stub_->Remove(InTime());
    request->setKey(key);
    return request.Send().Wait().status();
  }
  std::string Get(const std::string& key) {
    auto request = stub_->Get(InTime());
    request->setKey(key);
    auto response = request.Send().Wait();
    if (!response.ok()) return response.status().ToString();
    const auto value = response->getValue();
    return {reinterpret_cast<const char*>(value.begin()), value.size()};
  }
  mi7::StreamReader<Change> Watch(const std::string& prefix, uint64_t after = 0) {
    auto request = stub_->Watch(InTime());
    request->setPrefix(prefix);
    request->setAfter(after);
    return request.Send();
  }
  // The next change, in words; the end's status as text.
  static std::string Next(mi7::StreamReader<Change>& reader) {
    auto change = reader.Read().Wait();
    if (!change.ok()) return change.status().ToString();
    if (!*change) return "end";
    const Change::Reader seen = **change;
    const std::string key = absl::StrCat(seen.getRevision(), " ", seen.getKey().cStr());
    return seen.isRemoved() ? key + " removed" : absl::StrCat(key, " of ", seen.getValue().size());
  }

  const std::string directory_ = testing::TempDir() + "/store_test";
  const std::shared_ptr<mi7::FaultScript> faults_ = std::make_shared<mi7::FaultScript>();
  std::unique_ptr<StoreImpl> store_;
  std::unique_ptr<mi7::Server> server_;
  std::optional<StoreStub> stub_;
};

TEST_F(StoreTest, ChangeWhoseAnswerIsLostIsMadeOnce) {
  const absl::StatusOr<uint64_t> first = Put("a", "0");
  ASSERT_THAT(first, mi7::IsOk());
  for (uint64_t i = 1; i <= 5; ++i) {
    faults_->Add({.frames = mi7::FaultFrames::kReturns, .action = mi7::FaultAction::kLose});
    const absl::StatusOr<uint64_t> next = Put("a", absl::StrCat(i), *first + i - 1);
    ASSERT_THAT(next, mi7::IsOk()) << "the condition held once";
    EXPECT_EQ(*next, *first + i);
  }
  EXPECT_EQ(faults_->hits(), 5u);
  faults_->Add({.frames = mi7::FaultFrames::kReturns, .action = mi7::FaultAction::kLose});
  EXPECT_THAT(Remove("a"), mi7::IsOk()) << "it was there the first time";
}

TEST_F(StoreTest, PutsGetsAndRemoves) {
  EXPECT_THAT(Put("a", "one"), mi7::IsOk());
  EXPECT_EQ(Get("a"), "one");
  EXPECT_THAT(Put("a", "two", 7),
              mi7::StatusIs(absl::StatusCode::kAborted, "put: 'a' has revision 1, not 7"));
  EXPECT_THAT(Remove("a"), mi7::IsOk());
  EXPECT_EQ(Get("a"), "NOT_FOUND: get: 'a' does not exist");
}

TEST_F(StoreTest, OutlivesItsServer) {
  EXPECT_THAT(Put("a", "one"), mi7::IsOk());
  Stop();
  Start();
  EXPECT_EQ(Get("a"), "one");
}

TEST_F(StoreTest, ListsInPagesThatFitIntoMessages) {
  const std::string large(VALUE_BYTES_MAX, 'x');
  for (int i = 0; i < 9; ++i) EXPECT_THAT(Put(absl::StrCat("k", i), large), mi7::IsOk());
  std::string after;
  size_t entries = 0;
  size_t pages = 0;
  for (bool more = true; more;) {
    auto request = stub_->List(InTime());
    request->setPrefix("k");
    request->setAfter(after);
    auto response = request.Send().Wait();
    ASSERT_THAT(response, mi7::IsOk());
    ASSERT_NE(response->getEntries().size(), 0u);
    for (Entry::Reader entry : response->getEntries()) {
      EXPECT_EQ(entry.getKey(), absl::StrCat("k", entries++));
      after = entry.getKey().cStr();
    }
    more = response->getMore();
    ++pages;
  }
  EXPECT_EQ(entries, 9u);
  EXPECT_GT(pages, 1u);
}

TEST_F(StoreTest, WatchersAreToldWhatIsThereAndWhatChanges) {
  EXPECT_THAT(Put("a/1", "x"), mi7::IsOk());
  EXPECT_THAT(Put("b/1", "x"), mi7::IsOk());
  auto all = Watch("");
  auto some = Watch("a/");
  EXPECT_EQ(Next(all), "1 a/1 of 1");
  EXPECT_EQ(Next(all), "2 b/1 of 1");
  EXPECT_EQ(Next(some), "1 a/1 of 1");
  EXPECT_THAT(Put("b/1", "xx"), mi7::IsOk());
  EXPECT_THAT(Remove("a/1"), mi7::IsOk());
  EXPECT_EQ(Next(all), "3 b/1 of 2");
  EXPECT_EQ(Next(all), "4 a/1 removed");
  EXPECT_EQ(Next(some), "4 a/1 removed");
}

TEST_F(StoreTest, WatcherGoesOnAfterARevision) {
  EXPECT_THAT(Put("a", "x"), mi7::IsOk());
  EXPECT_THAT(Put("b", "x"), mi7::IsOk());
  EXPECT_THAT(Remove("a"), mi7::IsOk());
  auto reader = Watch("", 1);
  EXPECT_EQ(Next(reader), "2 b of 1");
  EXPECT_EQ(Next(reader), "3 a removed");
}

TEST_F(StoreTest, WatcherThatIsTooFarBehindIsTold) {
  for (int i = 0; i < 6; ++i) {
    EXPECT_THAT(Put(absl::StrCat("k", i), "x"), mi7::IsOk());
    EXPECT_THAT(Remove(absl::StrCat("k", i)), mi7::IsOk());
  }
  auto reader = Watch("", 1);
  EXPECT_THAT(Next(reader),
              HasSubstr("OUT_OF_RANGE: watch: removals after revision 1 are forgott"));
}

TEST_F(StoreTest, WatcherThatDoesNotReadGetsTheLastChangesOnly) {
  auto stands = Watch("");
  // More than its window and what is on its way.
  const std::string large(100'000, 'x');
  EXPECT_THAT(Put("first", "x"), mi7::IsOk());
  for (int i = 0; i < 200; ++i) EXPECT_THAT(Put("a", large), mi7::IsOk());
  EXPECT_THAT(Put("b", "x"), mi7::IsOk()) << "nobody waits for it";
  EXPECT_EQ(Next(stands), "1 first of 1");
  int changes = 0;
  std::string next = Next(stands);
  for (; next != "202 b of 1"; next = Next(stands)) {
    ASSERT_THAT(next, HasSubstr(" a of 100000"));
    ++changes;
  }
  EXPECT_GT(changes, 0);
  EXPECT_LT(changes, 200);
}

TEST_F(StoreTest, CancelledWatcherLeavesRoom) {
  std::vector<mi7::StreamReader<Change>> readers;
  EXPECT_THAT(Put("a", "x"), mi7::IsOk());
  for (size_t i = 0; i < kWatchersMax; ++i) {
    readers.push_back(Watch(""));
    ASSERT_EQ(Next(readers.back()), "1 a of 1");
  }
  auto surplus = Watch("");
  EXPECT_THAT(Next(surplus), HasSubstr("RESOURCE_EXHAUSTED: watch: 1000 watch already"));
  readers.clear();  // cancels
  const mi7::Deadline deadline = mi7::Deadline::After(absl::Seconds(60));
  std::string next;
  do {
    auto again = Watch("");
    next = Next(again);
  } while (next != "1 a of 1" && !deadline.passed());
  EXPECT_EQ(next, "1 a of 1");
}

// The disk is slower than those who ask for it. First nobody repeats anything, to see the refusal.
TEST_F(StoreTest, CallsBeyondThoseThatMayWaitAreToldWhenToComeAgainAndDoSo) {
  struct Ends {
    absl::Mutex mutex;
    size_t sent = 0;
    size_t ended ABSL_GUARDED_BY(mutex) = 0;
    absl::Status refused ABSL_GUARDED_BY(mutex);
    bool AllEnded() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return ended == sent; }
  } ends;
  const mi7::Deadline deadline = mi7::Deadline::After(absl::Seconds(60));
  for (bool refused = false; !refused && !deadline.passed();) {
    mi7::CallOptions options = InTime();
    options.repeat = mi7::Repeat::kNever;
    auto request = stub_->Put(options);
    request->setKey("a");
    ++ends.sent;
    request.Send().Then([&ends](const auto& response) {
      absl::MutexLock lock(&ends.mutex);
      ++ends.ended;
      ends.refused.Update(response.status());
    });
    absl::MutexLock lock(&ends.mutex);
    refused = !ends.refused.ok();
  }
  // While so many wait: these come again by themselves.
  mi7::CallOptions patient = InTime();
  patient.retry = std::make_shared<const mi7::RetryPolicy>(mi7::RetryPolicy{.attempts_max = 1000});
  auto put = stub_->Put(patient);
  put->setKey("b");
  auto remove = stub_->Remove(patient);
  remove->setKey("a");
  auto putting = put.Send();
  auto removing = remove.Send();
  EXPECT_THAT(putting.Wait(), mi7::IsOk());
  EXPECT_THAT(removing.Wait(), mi7::IsOk());
  absl::MutexLock lock(&ends.mutex);
  ends.mutex.Await(absl::Condition(&ends, &Ends::AllEnded));
  EXPECT_THAT(ends.refused, mi7::StatusIs(absl::StatusCode::kResourceExhausted,
                                          HasSubstr("1000 calls wait for the disk")));
  EXPECT_EQ(mi7::RetryAfter(ends.refused), kRetryAfter);
}

// Of changes that wait for the disk, by whatever way their callers give up.
TEST_F(StoreTest, ChangesWhoseCallersHaveGivenUpAreNotMade) {
  Stop();
  mi7::FakeClock clock;  // from before the server
  Start();
  ASSERT_THAT(Put("a", "0"), mi7::IsOk());
  Gate::Get().Shut();
  auto first = SendPut("a", "1");
  ASSERT_TRUE(Gate::Get().AwaitChange());
  auto cancelled = SendPut("cancelled", "x");
  std::optional<mi7::PendingCall<Store::PutResults>> dropped = SendPut("dropped", "x");
  auto late = SendPut("late", "x", {.deadline = mi7::Deadline::After(absl::Hours(1))});
  auto remove = stub_->Remove();
  remove->setKey("a");
  auto removing = remove.Send();
  auto last = SendPut("last", "x");
  ASSERT_TRUE(HasReadAll());
  cancelled.Cancel();
  removing.Cancel();
  dropped.reset();
  clock.Advance(absl::Hours(1));
  EXPECT_THAT(cancelled.Wait(), mi7::StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(removing.Wait(), mi7::StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(late.Wait(), mi7::StatusIs(absl::StatusCode::kDeadlineExceeded));
  ASSERT_TRUE(HasReadAll());
  Gate::Get().Open();
  EXPECT_THAT(first.Wait(), mi7::IsOk());
  EXPECT_THAT(last.Wait(), mi7::IsOk());
  EXPECT_EQ(Get("a"), "1");
  for (const char* key : {"cancelled", "dropped", "late"}) {
    EXPECT_EQ(Get(key), absl::StrCat("NOT_FOUND: get: '", key, "' does not exist"));
  }
  auto all = Watch("");
  EXPECT_EQ(Next(all), "2 a of 1");
  EXPECT_EQ(Next(all), "3 last of 1") << "and nothing between them";
}

// It may come back for the answer, which its channel does by itself.
TEST_F(StoreTest, ChangeWhoseCallerHasLostItsConnectionIsMadeOnce) {
  Gate::Get().Shut();
  auto first = SendPut("a", "1");
  ASSERT_TRUE(Gate::Get().AwaitChange());
  auto waits = SendPut("b", "2");
  ASSERT_TRUE(HasReadAll());
  faults_->Add({.frames = mi7::FaultFrames::kReturns, .action = mi7::FaultAction::kLose});
  ASSERT_TRUE(HasReadAll()) << "over another connection";
  EXPECT_EQ(faults_->hits(), 1u);
  Gate::Get().Open();
  EXPECT_THAT(first.Wait(), mi7::IsOk());
  const auto second = waits.Wait();
  ASSERT_THAT(second, mi7::IsOk());
  EXPECT_EQ(second->getRevision(), 2u);
  EXPECT_EQ(Get("b"), "2");
  const auto next = Put("c", "3");
  ASSERT_THAT(next, mi7::IsOk());
  EXPECT_EQ(*next, 3u);
}

TEST_F(StoreTest, RefusesWhatIsTooLarge) {
  const auto key = mi7::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 to 512 bytes"));
  EXPECT_THAT(Put("", "x"), key);
  EXPECT_THAT(Put(std::string(KEY_BYTES_MAX + 1, 'k'), "x"), key);
  EXPECT_THAT(Put(std::string(KEY_BYTES_MAX, 'k'), "x"), mi7::IsOk());
  EXPECT_THAT(Put("a", std::string(VALUE_BYTES_MAX + 1, 'x')),
              mi7::StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at most 1048576")));
}

TEST_F(StoreTest, StopEndsTheStreams) {
  auto reader = Watch("");
  EXPECT_THAT(Put("a", "x"), mi7::IsOk());
  EXPECT_EQ(Next(reader), "1 a of 1");
  store_->Stop();
  EXPECT_EQ(Next(reader), "UNAVAILABLE: watch: the server stops");
  auto late = Watch("");
  EXPECT_EQ(Next(late), "UNAVAILABLE: watch: the server stops");
  EXPECT_EQ(Get("a"), "x") << "what is no stream goes on until Shutdown";
}

}  // namespace
}  // namespace kv
