#include "examples/log_tail/log_tail_impl.h"

#include <sys/stat.h>

#include <algorithm>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"

namespace log_tail {
namespace {

// Bytes of a piece: large enough that reading is the work, small enough that many fit into a
// window.
constexpr size_t kPieceBytes = 32 << 10;

constexpr char kStopping[] = "tail: the server stops";

void NameFormatter(std::string* out, const std::pair<const std::string, std::string>& log) {
  absl::StrAppend(out, log.first);
}

}  // namespace

LogTailImpl::~LogTailImpl() {
  Stop();
  // Nobody adds to them any more.
  std::list<Reader> readers;
  {
    absl::MutexLock lock(&mutex_);
    readers.swap(readers_);
  }
  for (Reader& reader : readers) reader.thread.join();
}

void LogTailImpl::Stop() {
  absl::MutexLock lock(&mutex_);
  stopping_ = true;
}

bool LogTailImpl::AwaitReaders(size_t count, absl::Duration timeout) {
  absl::MutexLock lock(&mutex_);
  const auto reached = [this, count]()
                           ABSL_NO_THREAD_SAFETY_ANALYSIS { return ReaderCount() == count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&reached), timeout);
}

size_t LogTailImpl::ReaderCount() const {
  return static_cast<size_t>(
      std::count_if(readers_.begin(), readers_.end(),
                    [](const Reader& reader) { return reader.reads && !reader.done; }));
}

void LogTailImpl::JoinDone() {
  readers_.remove_if([](Reader& reader) {
    if (reader.done) reader.thread.join();  // it has left the mutex: nothing is left to wait for
    return reader.done;
  });
}

mi7::Reply LogTailImpl::List(mi7::ServerContext&, LogTail::ListParams::Reader,
                             LogTail::ListResults::Builder results) {
  auto logs = results.initLogs(static_cast<unsigned>(logs_.size()));
  unsigned i = 0;
  for (const auto& [name, path] : logs_) {
    struct stat info;
    const bool exists = ::stat(path.c_str(), &info) == 0;
    logs[i].setName(name);
    logs[i].setSize(exists ? static_cast<uint64_t>(info.st_size) : 0);
    ++i;
  }
  return absl::OkStatus();
}

mi7::Reply LogTailImpl::Tail(mi7::ServerContext& context, LogTail::TailParams::Reader params,
                             mi7::StreamWriter<Piece> writer) {
  const auto log = logs_.find(params.getName());
  if (log == logs_.end()) {
    return absl::NotFoundError(
        absl::StrCat("tail: no log '", params.getName().cStr(),
                     "'; there are: ", absl::StrJoin(logs_, ", ", NameFormatter)));
  }
  if (params.getLastLines() > LAST_LINES_MAX) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tail: ", params.getLastLines(), " lines are too many; ask for at most ", LAST_LINES_MAX));
  }
  absl::MutexLock lock(&mutex_);
  if (stopping_) return absl::UnavailableError(kStopping);
  JoinDone();
  if (readers_.size() >= kReadersMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("tail: ", kReadersMax, " callers read already; try again when one has ended"));
  }
  Reader& reader = readers_.emplace_back();
  try {
    // The context stays valid until the call is answered.
    reader.thread =
        std::thread([this, &reader, &context, later = context.Defer(), path = log->second,
                     last_lines = params.getLastLines(), follow = params.getFollow(),
                     writer = std::move(writer)]() mutable {
          absl::StatusOr<LogFile> file = LogFile::Open(path, last_lines);
          if (file.ok()) {
            absl::MutexLock reads_lock(&mutex_);
            reader.reads = true;
          }
          later.Finish(file.ok() ? Follow(context, *std::move(file), follow, std::move(writer))
                                 : file.status());
          absl::MutexLock done_lock(&mutex_);
          reader.done = true;
        });
  } catch (const std::system_error& error) {
    readers_.pop_back();
    // The call was dropped with what the thread would have run, so it is ours to answer again.
    return absl::ResourceExhaustedError(
        absl::StrCat("tail: there is no thread for it: ", error.what(), "; try again"));
  }
  return mi7::Reply::Later();
}

absl::Status LogTailImpl::WaitForMore(const std::stop_token& cancelled) {
  absl::MutexLock lock(&mutex_);
  const auto ends = [this, &cancelled]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return stopping_ || cancelled.stop_requested();
  };
  mutex_.AwaitWithTimeout(absl::Condition(&ends), kLookInterval);
  if (cancelled.stop_requested()) return absl::CancelledError("tail: the caller has ended it");
  return stopping_ ? absl::UnavailableError(kStopping) : absl::OkStatus();
}

absl::Status LogTailImpl::Follow(const mi7::ServerContext& context, LogFile file, bool follow,
                                 mi7::StreamWriter<Piece> writer) {
  std::string buffer(kPieceBytes, '\0');
  bool restarted = false;
  // Whoever waits for the mutex looks again when somebody has had it.
  const std::stop_token cancelled = context.stop_token();
  const std::stop_callback wake(cancelled, [this] { absl::MutexLock lock(&mutex_); });
  for (;;) {
    const uint64_t offset = file.offset();
    absl::StatusOr<size_t> got = file.Read(absl::MakeSpan(buffer));
    if (!got.ok()) return got.status();
    if (*got == 0) {
      if (!follow) return absl::OkStatus();
      absl::StatusOr<bool> again = file.Restarted();
      if (!again.ok()) return again.status();
      if (*again) {
        restarted = true;
        continue;
      }
      if (absl::Status waited = WaitForMore(cancelled); !waited.ok()) return waited;
      continue;
    }
    auto piece = writer.NewMessage();
    piece->setOffset(offset);
    piece->setRestarted(std::exchange(restarted, false));
    piece->setData({reinterpret_cast<const kj::byte*>(buffer.data()), *got});
    // Waits while the caller is behind. It fails once nobody reads any more.
    if (absl::Status sent = writer.Write(std::move(piece)).Wait(); !sent.ok()) return sent;
  }
}

}  // namespace log_tail
