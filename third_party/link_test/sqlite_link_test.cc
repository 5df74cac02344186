#include <sqlite3.h>

#include "gtest/gtest.h"

namespace {

TEST(SqliteTest, OpensAndReads) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(":memory:", &database), SQLITE_OK);
  sqlite3_stmt* query = nullptr;
  ASSERT_EQ(sqlite3_prepare_v2(database, "SELECT 6 * 7", -1, &query, nullptr), SQLITE_OK);
  ASSERT_EQ(sqlite3_step(query), SQLITE_ROW);
  EXPECT_EQ(sqlite3_column_int(query, 0), 42);
  sqlite3_finalize(query);
  EXPECT_EQ(sqlite3_close(database), SQLITE_OK);
}

}  // namespace
