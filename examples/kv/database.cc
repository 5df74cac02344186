#include "examples/kv/database.h"

#include <sqlite3.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kv {
namespace {

// "mi7k", in the file's header.
constexpr int kApplicationId = 0x6d69376b;
constexpr int kPageBytes = 4096;

// The first key after all those with the prefix; empty when there is none.
std::string EndOf(absl::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && end.back() == '\xff') end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(end.back() + 1);
  return end;
}

absl::Status CheckExpected(const Row& row, std::optional<uint64_t> expected) {
  const uint64_t has = row.value.has_value() ? row.revision : 0;
  if (!expected.has_value() || *expected == has) return absl::OkStatus();
  return absl::AbortedError(
      has == 0
          ? absl::StrCat("'", row.key, "' does not exist, instead of having revision ", *expected)
          : absl::StrCat(
                "'", row.key, "' has revision ", has,
                *expected == 0 ? ", instead of not existing" : absl::StrCat(", not ", *expected)));
}

}  // namespace

// A statement that is run once.
class Database::Statement {
 public:
  Statement(Database* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  Statement(Statement&& other) noexcept
      : database_(other.database_), statement_(std::exchange(other.statement_, nullptr)) {}
  ~Statement() { sqlite3_finalize(statement_); }

  // The bytes must live until the statement is gone.
  Statement& Bind(int index, absl::string_view bytes) {
    static const char kEmpty[] = "";
    sqlite3_bind_blob64(statement_, index, bytes.empty() ? kEmpty : bytes.data(), bytes.size(),
                        SQLITE_STATIC);
    return *this;
  }
  Statement& Bind(int index, uint64_t number) {
    sqlite3_bind_int64(statement_, index, static_cast<sqlite3_int64>(number));
    return *this;
  }
  // Whether there is a (further) row.
  absl::StatusOr<bool> Step() {
    const int code = sqlite3_step(statement_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) return false;
    return database_->Error(code);
  }
  absl::Status Run() { return Step().status(); }

  uint64_t Number(int column) const {
    return static_cast<uint64_t>(sqlite3_column_int64(statement_, column));
  }
  std::optional<std::string> Bytes(int column) const {
    if (sqlite3_column_type(statement_, column) == SQLITE_NULL) return std::nullopt;
    const void* const bytes = sqlite3_column_blob(statement_, column);
    const int size = sqlite3_column_bytes(statement_, column);
    return bytes == nullptr
               ? std::string()
               : std::string(static_cast<const char*>(bytes), static_cast<size_t>(size));
  }
  // Of the columns key, value, revision.
  Row ToRow() const {
    return {.key = Bytes(0).value_or(""), .value = Bytes(1), .revision = Number(2)};
  }

 private:
  Database* database_;
  sqlite3_stmt* statement_;
};

absl::Status Database::Error(int code) const {
  const std::string text = absl::StrCat("database: ", sqlite3_errmsg(db_));
  switch (code & 0xff) {
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(text);
    case SQLITE_BUSY:
      return absl::FailedPreconditionError(absl::StrCat(text, ": another process has it"));
    case SQLITE_CANTOPEN:
    case SQLITE_NOTADB:
      return absl::FailedPreconditionError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path,
                                                         const DatabaseOptions& options) {
  std::unique_ptr<Database> database(new Database(options));
  if (absl::Status ready = database->Init(path); !ready.ok()) {
    return absl::Status(ready.code(), absl::StrCat(path, ": ", ready.message()));
  }
  return database;
}

Database::~Database() { sqlite3_close(db_); }

absl::Status Database::Init(const std::string& path) {
  const int opened =
      sqlite3_open_v2(path.c_str(), &db_,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  if (opened != SQLITE_OK) return Error(opened);
  // Ours alone, until it is closed; a change is on the disk when it is answered.
  const std::string settings =
      absl::StrCat("PRAGMA page_size = ", kPageBytes, "; PRAGMA locking_mode = EXCLUSIVE;",
                   "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;",
                   "PRAGMA max_page_count = ", options_.bytes_max / kPageBytes, ";");
  if (absl::Status set = Run(settings.c_str()); !set.ok()) return set;
  uint64_t id = 0;
  uint64_t tables = 0;
  for (auto& [sql, number] : {std::pair("PRAGMA application_id", &id),
                              std::pair("SELECT count(*) FROM sqlite_schema", &tables)}) {
    absl::StatusOr<Statement> query = Prepare(sql);
    if (!query.ok()) return query.status();
    if (absl::Status row = query->Run(); !row.ok()) return row;
    *number = query->Number(0);
  }
  if (id != kApplicationId && tables != 0) {
    return absl::FailedPreconditionError("is a database of another program");
  }
  const std::string tables_sql = absl::StrCat(
      "BEGIN IMMEDIATE; PRAGMA application_id = ", kApplicationId, ";",
      "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, value BLOB,"
      "  revision INTEGER NOT NULL UNIQUE) WITHOUT ROWID;"
      "CREATE INDEX IF NOT EXISTS removed ON entries (revision) WHERE value IS NULL;"
      "CREATE TABLE IF NOT EXISTS numbers (revision INTEGER NOT NULL, forgotten INTEGER NOT NULL);"
      "INSERT INTO numbers SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM numbers); COMMIT;");
  if (absl::Status made = Run(tables_sql.c_str()); !made.ok()) return made;
  absl::StatusOr<Statement> numbers = Prepare(
      "SELECT revision, forgotten, (SELECT count(*) FROM entries WHERE value IS NULL) FROM "
      "numbers");
  if (!numbers.ok()) return numbers.status();
  if (absl::Status row = numbers->Run(); !row.ok()) return row;
  revision_ = numbers->Number(0);
  forgotten_ = numbers->Number(1);
  removed_ = numbers->Number(2);
  return absl::OkStatus();
}

absl::Status Database::Run(const char* sql) {
  const int code = sqlite3_exec(db_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code);
}

absl::StatusOr<Database::Statement> Database::Prepare(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v2(db_, sql, -1, &statement, nullptr);
  if (code != SQLITE_OK) return Error(code);
  return Statement(this, statement);
}

absl::StatusOr<Row> Database::Find(absl::string_view key) {
  absl::StatusOr<Statement> query =
      Prepare("SELECT key, value, revision FROM entries WHERE key = ?");
  if (!query.ok()) return query.status();
  absl::StatusOr<bool> found = query->Bind(1, key).Step();
  if (!found.ok()) return found.status();
  return *found ? query->ToRow() : Row{.key = std::string(key), .value = std::nullopt};
}

absl::StatusOr<Row> Database::Get(absl::string_view key) {
  absl::StatusOr<Row> row = Find(key);
  if (row.ok() && !row->value.has_value()) {
    return absl::NotFoundError(absl::StrCat("'", key, "' does not exist"));
  }
  return row;
}

absl::StatusOr<uint64_t> Database::Put(absl::string_view key, absl::string_view value,
                                       std::optional<uint64_t> expected) {
  absl::StatusOr<Row> row = Find(key);
  if (!row.ok()) return row.status();
  if (absl::Status holds = CheckExpected(*row, expected); !holds.ok()) return holds;
  const bool was_removed = row->revision != 0 && !row->value.has_value();
  absl::StatusOr<uint64_t> revision = Write(key, &value);
  if (revision.ok() && was_removed) --removed_;
  return revision;
}

absl::StatusOr<uint64_t> Database::Remove(absl::string_view key, std::optional<uint64_t> expected) {
  absl::StatusOr<Row> row = Find(key);
  if (!row.ok()) return row.status();
  if (absl::Status holds = CheckExpected(*row, expected); !holds.ok()) return holds;
  if (!row->value.has_value()) {
    return absl::NotFoundError(absl::StrCat("'", key, "' does not exist"));
  }
  absl::StatusOr<uint64_t> revision = Write(key, nullptr);
  if (!revision.ok()) return revision;
  // The change is made, whatever comes of this: what is not forgotten now is with the next one.
  if (++removed_ > options_.removed_max) ForgetRemoved().IgnoreError();
  return revision;
}

absl::StatusOr<uint64_t> Database::Write(absl::string_view key, const absl::string_view* value) {
  const uint64_t revision = revision_ + 1;
  const auto write = [&]() -> absl::Status {
    if (absl::Status begun = Run("BEGIN IMMEDIATE"); !begun.ok()) return begun;
    absl::StatusOr<Statement> entry =
        Prepare("INSERT OR REPLACE INTO entries (key, value, revision) VALUES (?, ?, ?)");
    if (!entry.ok()) return entry.status();
    entry->Bind(1, key).Bind(3, revision);
    if (value != nullptr) entry->Bind(2, *value);
    if (absl::Status wrote = entry->Run(); !wrote.ok()) return wrote;
    absl::StatusOr<Statement> numbers = Prepare("UPDATE numbers SET revision = ?");
    if (!numbers.ok()) return numbers.status();
    if (absl::Status wrote = numbers->Bind(1, revision).Run(); !wrote.ok()) return wrote;
    return Run("COMMIT");
  };
  if (absl::Status wrote = write(); !wrote.ok()) {
    Run("ROLLBACK").IgnoreError();  // there may be nothing to roll back
    return wrote;
  }
  revision_ = revision;
  return revision;
}

absl::Status Database::ForgetRemoved() {
  // Half of them at a time, the oldest ones.
  uint64_t until = 0;
  {
    absl::StatusOr<Statement> query = Prepare(
        "SELECT revision FROM entries WHERE value IS NULL ORDER BY revision LIMIT 1 OFFSET ?");
    if (!query.ok()) return query.status();
    if (absl::Status row = query->Bind(1, removed_ / 2).Run(); !row.ok()) return row;
    until = query->Number(0);
  }
  const std::string sql =
      absl::StrCat("BEGIN IMMEDIATE; UPDATE numbers SET forgotten = ", until,
                   "; DELETE FROM entries WHERE value IS NULL AND revision <= ", until, "; COMMIT");
  if (absl::Status forgot = Run(sql.c_str()); !forgot.ok()) {
    Run("ROLLBACK").IgnoreError();
    return forgot;
  }
  forgotten_ = until;
  removed_ -= removed_ / 2 + 1;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Row>> Database::List(absl::string_view prefix, absl::string_view after,
                                                size_t count, size_t bytes_max) {
  const std::string end = EndOf(prefix);
  absl::StatusOr<Statement> query =
      Prepare(end.empty() ? "SELECT key, value, revision FROM entries WHERE key >= ? AND key > ?"
                            " AND value IS NOT NULL ORDER BY key LIMIT ?"
                          : "SELECT key, value, revision FROM entries WHERE key >= ? AND key > ?"
                            " AND value IS NOT NULL AND key < ?4 ORDER BY key LIMIT ?3");
  if (!query.ok()) return query.status();
  query->Bind(1, prefix).Bind(2, after).Bind(3, uint64_t{count});
  if (!end.empty()) query->Bind(4, end);
  std::vector<Row> rows;
  size_t bytes = 0;
  for (;;) {
    absl::StatusOr<bool> found = query->Step();
    if (!found.ok()) return found.status();
    if (!*found) return rows;
    Row row = query->ToRow();
    bytes += row.key.size() + row.value->size();
    if (!rows.empty() && bytes > bytes_max) return rows;
    rows.push_back(std::move(row));
  }
}

absl::StatusOr<std::optional<Row>> Database::NextChange(absl::string_view prefix,
                                                        uint64_t revision) {
  if (revision != 0 && revision < forgotten_) {
    return absl::OutOfRangeError(absl::StrCat("removals after revision ", revision,
                                              " are forgotten, up to revision ", forgotten_,
                                              "; begin again from 0"));
  }
  const std::string end = EndOf(prefix);
  absl::StatusOr<Statement> query = Prepare(
      "SELECT key, value, revision FROM entries WHERE revision > ?1 AND key >= ?2"
      " AND (?3 = x'' OR key < ?3) AND (?1 != 0 OR value IS NOT NULL) ORDER BY revision LIMIT 1");
  if (!query.ok()) return query.status();
  query->Bind(1, revision).Bind(2, prefix).Bind(3, end);
  absl::StatusOr<bool> found = query->Step();
  if (!found.ok()) return found.status();
  return *found ? std::optional<Row>(query->ToRow()) : std::nullopt;
}

}  // namespace kv
