#pragma once

// The service: its handlers are deferred to threads, one for each caller, which read the file and
// write to the stream in the blocking way. So a caller that reads slowly holds up its own thread
// and nothing else, and what it has not read waits in the file.

#include <cstddef>
#include <list>
#include <map>
#include <stop_token>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "examples/log_tail/log_file.h"
#include "examples/log_tail/log_tail.mi7.h"

namespace log_tail {

// Callers that read at a time: a thread each.
inline constexpr size_t kReadersMax = 64;
// How soon an appended line is seen.
inline constexpr absl::Duration kLookInterval = absl::Milliseconds(50);

// Must outlive the server that it is added to.
class LogTailImpl final : public LogTailService {
 public:
  // Name of each log, and its path.
  explicit LogTailImpl(std::map<std::string, std::string> logs) : logs_(std::move(logs)) {}
  // Stops, and waits for the threads.
  ~LogTailImpl() override;

  // Ends all streams with UNAVAILABLE, and refuses further ones. Before Server::Shutdown, which
  // would wait for them.
  void Stop();
  // Waits until so many callers read, each from its place in the file; false: not within `timeout`.
  bool AwaitReaders(size_t count, absl::Duration timeout);

  mi7::Reply List(mi7::ServerContext& context, LogTail::ListParams::Reader params,
                  LogTail::ListResults::Builder results) override;
  mi7::Reply Tail(mi7::ServerContext& context, LogTail::TailParams::Reader params,
                  mi7::StreamWriter<Piece> writer) override;

 private:
  struct Reader {
    std::thread thread;
    bool reads = false;  // has its place in the file
    bool done = false;
  };
  // On a thread of its own: how the stream ends.
  absl::Status Follow(const mi7::ServerContext& context, LogFile file, bool follow,
                      mi7::StreamWriter<Piece> writer);
  size_t ReaderCount() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Waits until it is time to look at the file again; not OK: for nothing more.
  absl::Status WaitForMore(const std::stop_token& cancelled);
  void JoinDone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::map<std::string, std::string> logs_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::list<Reader> readers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace log_tail
