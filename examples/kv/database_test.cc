#include "examples/kv/database.h"

#include <sqlite3.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "rpc/status_testing.h"

namespace kv {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DatabaseTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    Open();
  }
  void TearDown() override {
    database_.reset();
    std::filesystem::remove_all(directory_);
  }
  void Open(const DatabaseOptions& options = {}) {
    database_.reset();
    absl::StatusOr<std::unique_ptr<Database>> database = Database::Open(path_, options);
    ASSERT_THAT(database, mi7::IsOk());
    database_ = *std::move(database);
  }
  // As another program does, while no Database has the file.
  static void Execute(const std::string& path, const char* sql) {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &database), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(database, sql, nullptr, nullptr, nullptr), SQLITE_OK);
    ASSERT_EQ(sqlite3_close(database), SQLITE_OK);
  }
  uint64_t Put(const std::string& key, const std::string& value) {
    return database_->Put(key, value, std::nullopt).value();
  }
  std::vector<std::string> Keys(const std::string& prefix, const std::string& after = "",
                                size_t count = 100, size_t bytes_max = 1 << 20) {
    std::vector<std::string> keys;
    const std::vector<Row> rows = database_->List(prefix, after, count, bytes_max).value();
    for (const Row& row : rows) keys.push_back(row.key);
    return keys;
  }
  // What a watcher is told from a revision on, in words.
  std::vector<std::string> Changes(const std::string& prefix, uint64_t revision) {
    std::vector<std::string> changes;
    for (;;) {
      const std::optional<Row> row = database_->NextChange(prefix, revision).value();
      if (!row.has_value()) return changes;
      changes.push_back(
          absl::StrCat(row->revision, " ", row->key, " ", row->value.value_or("removed")));
      revision = row->revision;
    }
  }

  const std::string directory_ = testing::TempDir() + "/database_test";
  const std::string path_ = directory_ + "/store.db";
  std::unique_ptr<Database> database_;
};

TEST_F(DatabaseTest, KeepsWhatIsPut) {
  EXPECT_THAT(database_->Get("a"),
              mi7::StatusIs(absl::StatusCode::kNotFound, "'a' does not exist"));
  EXPECT_EQ(Put("a", "1"), 1u);
  EXPECT_EQ(Put("a", std::string("\0\xff", 2)), 2u);
  EXPECT_EQ(Put("b", ""), 3u);
  Open();
  EXPECT_EQ(database_->Get("a")->value, std::string("\0\xff", 2));
  EXPECT_EQ(database_->Get("a")->revision, 2u);
  EXPECT_EQ(database_->Get("b")->value, "");
  EXPECT_EQ(Put("c", "3"), 4u) << "revisions go on";
}

TEST_F(DatabaseTest, RemovedIsGoneAndNumbered) {
  Put("a", "1");
  EXPECT_EQ(database_->Remove("a", std::nullopt).value(), 2u);
  EXPECT_THAT(database_->Get("a"), mi7::StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(database_->Remove("a", std::nullopt), mi7::StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(Put("a", "2"), 3u);
}

TEST_F(DatabaseTest, ConditionsHoldOrNothingIsDone) {
  EXPECT_THAT(database_->Put("a", "1", 7),
              mi7::StatusIs(absl::StatusCode::kAborted,
                            "'a' does not exist, instead of having revision 7"));
  EXPECT_EQ(database_->Put("a", "1", 0).value(), 1u);
  EXPECT_THAT(
      database_->Put("a", "2", 0),
      mi7::StatusIs(absl::StatusCode::kAborted, "'a' has revision 1, instead of not existing"));
  EXPECT_EQ(database_->Put("a", "2", 1).value(), 2u);
  EXPECT_THAT(database_->Remove("a", 1),
              mi7::StatusIs(absl::StatusCode::kAborted, "'a' has revision 2, not 1"));
  EXPECT_EQ(database_->Get("a")->value, "2");
  EXPECT_EQ(database_->Remove("a", 2).value(), 3u);
  EXPECT_EQ(database_->Put("a", "3", 0).value(), 4u) << "a removed key does not exist";
}

TEST_F(DatabaseTest, ListsByPrefixInOrder) {
  for (const char* key : {"b", "ab", "a", "abc", "ac", "\xff", "\xff\xff"}) Put(key, "v");
  Put("abd", "v");
  ASSERT_THAT(database_->Remove("abd", std::nullopt), mi7::IsOk());
  EXPECT_THAT(Keys("ab"), ElementsAre("ab", "abc"));
  EXPECT_THAT(Keys(""), ElementsAre("a", "ab", "abc", "ac", "b", "\xff", "\xff\xff"));
  EXPECT_THAT(Keys("\xff"), ElementsAre("\xff", "\xff\xff"));
  EXPECT_THAT(Keys("a", "ab", 1), ElementsAre("abc"));
  EXPECT_THAT(Keys("x"), IsEmpty());
  EXPECT_THAT(Keys("a", "", 100, 5), ElementsAre("a", "ab")) << "2 and 3 bytes";
  EXPECT_THAT(Keys("a", "", 100, 0), ElementsAre("a")) << "one at least";
}

TEST_F(DatabaseTest, TellsTheLastChangeOfEachKeyInOrder) {
  Put("a", "1");
  Put("b", "1");
  Put("other", "1");
  Put("a", "2");
  ASSERT_THAT(database_->Remove("b", std::nullopt), mi7::IsOk());
  EXPECT_THAT(Changes("", 0), ElementsAre("3 other 1", "4 a 2", "5 b removed"))
      << "what is removed counts once the first one was told";
  EXPECT_THAT(Changes("a", 0), ElementsAre("4 a 2"));
  EXPECT_THAT(Changes("", 4), ElementsAre("5 b removed"));
  EXPECT_THAT(Changes("b", 0), IsEmpty());
  EXPECT_THAT(Changes("", 5), IsEmpty());
}

TEST_F(DatabaseTest, ForgetsTheOldestRemovals) {
  Open({.removed_max = 4});
  for (int i = 0; i < 5; ++i) Put(absl::StrCat("k", i), "v");  // 1 to 5
  for (int i = 0; i < 5; ++i) {
    ASSERT_THAT(database_->Remove(absl::StrCat("k", i), std::nullopt), mi7::IsOk());  // 6 to 10
  }
  EXPECT_THAT(database_->NextChange("", 5),
              mi7::StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("begin again from 0")));
  EXPECT_THAT(Changes("", 8), ElementsAre("9 k3 removed", "10 k4 removed"));
  EXPECT_THAT(Changes("", 0), IsEmpty());
  Open({.removed_max = 4});
  EXPECT_THAT(database_->NextChange("", 5), mi7::StatusIs(absl::StatusCode::kOutOfRange))
      << "and remembers that it has";
}

TEST_F(DatabaseTest, WhatIsRemovedIsSoThoughNothingCanBeForgotten) {
  database_.reset();
  Execute(path_,
          "CREATE TRIGGER fails BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'full'); END");
  Open({.removed_max = 2});
  for (int i = 0; i < 5; ++i) Put(absl::StrCat("k", i), "v");  // 1 to 5
  for (int i = 0; i < 4; ++i) {
    EXPECT_THAT(database_->Remove(absl::StrCat("k", i), std::nullopt), mi7::IsOk());  // 6 to 9
  }
  EXPECT_THAT(Changes("", 5),
              ElementsAre("6 k0 removed", "7 k1 removed", "8 k2 removed", "9 k3 removed"));
  database_.reset();
  Execute(path_, "DROP TRIGGER fails");
  Open({.removed_max = 2});
  EXPECT_EQ(database_->Remove("k4", std::nullopt).value(), 10u);
  EXPECT_THAT(database_->NextChange("", 5), mi7::StatusIs(absl::StatusCode::kOutOfRange))
      << "it is tried again";
}

TEST_F(DatabaseTest, BelongsToOneProcess) {
  EXPECT_THAT(Database::Open(path_).status(),
              mi7::StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another process")));
}

TEST_F(DatabaseTest, RefusesFilesOfOthers) {
  const std::string text = directory_ + "/text";
  std::ofstream(text) << std::string(8192, 'x');
  EXPECT_THAT(Database::Open(text).status(),
              mi7::StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(text)));
  const std::string other = directory_ + "/other.db";
  Execute(other, "CREATE TABLE theirs (it)");
  EXPECT_THAT(Database::Open(other).status(),
              mi7::StatusIs(absl::StatusCode::kFailedPrecondition,
                            HasSubstr("other.db: is a database of another program")));
  EXPECT_THAT(Database::Open(directory_ + "/no/such").status(),
              mi7::StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("unable to open")));
}

TEST_F(DatabaseTest, FullFileChangesNothing) {
  Open({.bytes_max = 256 << 10});
  Put("a", "1");
  absl::Status full;
  uint64_t revision = 1;
  for (int i = 0; full.ok() && i < 1000; ++i) {
    absl::StatusOr<uint64_t> put =
        database_->Put(absl::StrCat("k", i), std::string(10'000, 'x'), std::nullopt);
    full = put.status();
    if (put.ok()) revision = *put;
  }
  EXPECT_THAT(full, mi7::StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")));
  EXPECT_EQ(database_->revision(), revision);
  EXPECT_EQ(database_->Get("a")->value, "1");
}

}  // namespace
}  // namespace kv
