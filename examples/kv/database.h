#pragma once

// Database: the keys and values in a file, by SQLite.
//
// A row for each key, the removed ones too (without a value), each with the number of its last
// change. So "what has changed since" is a query, and no queue has to be kept for those who watch.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct sqlite3;
struct sqlite3_stmt;

namespace kv {

// What a key has; without a value it was removed.
struct Row {
  std::string key;
  std::optional<std::string> value;
  uint64_t revision = 0;
};

// A value type.
struct DatabaseOptions {
  // Bounds the file.
  uint64_t bytes_max = uint64_t{1} << 30;
  // Removed keys that are remembered, for those who watch from some revision on.
  uint64_t removed_max = 10'000;
};

// One thread at a time. All errors but those named are the database's: INTERNAL, or
// RESOURCE_EXHAUSTED when the file or the disk is full.
class Database {
 public:
  // Makes the file when there is none. FAILED_PRECONDITION: another process has it, or it is not a
  // file of this program.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path,
                                                        const DatabaseOptions& options = {});
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // NOT_FOUND.
  absl::StatusOr<Row> Get(absl::string_view key);
  // The revision of the change, which is on the disk when this returns. `expected`: the revision
  // that the key has to have, 0 when there must be none; ABORTED when it is another.
  absl::StatusOr<uint64_t> Put(absl::string_view key, absl::string_view value,
                               std::optional<uint64_t> expected);
  // NOT_FOUND, ABORTED.
  absl::StatusOr<uint64_t> Remove(absl::string_view key, std::optional<uint64_t> expected);
  // Keys with the prefix that come after `after`, in order: the first ones, up to `count`, of which
  // all but the first together have at most `bytes_max` bytes.
  absl::StatusOr<std::vector<Row>> List(absl::string_view prefix, absl::string_view after,
                                        size_t count, size_t bytes_max);
  // The first change after `revision` of a key with the prefix, if there is one. After revision 0
  // those that are removed do not count. OUT_OF_RANGE: removals since then are forgotten.
  absl::StatusOr<std::optional<Row>> NextChange(absl::string_view prefix, uint64_t revision);
  // Of the last change.
  uint64_t revision() const { return revision_; }

 private:
  class Statement;
  explicit Database(const DatabaseOptions& options) : options_(options) {}
  absl::Status Init(const std::string& path);
  absl::Status Run(const char* sql);
  absl::Status Error(int code) const;
  absl::StatusOr<Statement> Prepare(const char* sql);
  // What the key has now; without a value when there is none.
  absl::StatusOr<Row> Find(absl::string_view key);
  absl::StatusOr<uint64_t> Write(absl::string_view key, const absl::string_view* value);
  absl::Status ForgetRemoved();

  const DatabaseOptions options_;
  sqlite3* db_ = nullptr;
  uint64_t revision_ = 0;
  uint64_t forgotten_ = 0;  // of the last removal that is not remembered
  uint64_t removed_ = 0;    // keys that are remembered
};

}  // namespace kv
