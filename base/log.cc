#include "base/log.h"

#include <cstdio>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/fork_guard.h"
#include "base/mutex.h"

namespace mi7 {
namespace {

void WriteToStderr(LogLevel level, absl::string_view text) {
  if (level == LogLevel::kInfo) return;
  std::fprintf(stderr, "mi7 %s: %.*s\n", level == LogLevel::kError ? "error" : "warning",
               static_cast<int>(text.size()), text.data());
}

struct Sink {
  Sink() { ForkGuard::HoldAcrossFork(&mutex); }
  Mutex mutex;
  std::shared_ptr<const LogSink> sink ABSL_GUARDED_BY(mutex) =
      std::make_shared<const LogSink>(WriteToStderr);
};

// Never destroyed: other static objects may log while they are.
Sink& TheSink() {
  static Sink* const sink = new Sink;
  return *sink;
}

}  // namespace

void SetLogSink(LogSink sink) {
  auto shared = std::make_shared<const LogSink>(std::move(sink));
  MutexLock lock(&TheSink().mutex);
  TheSink().sink = std::move(shared);
}

void Log(LogLevel level, absl::string_view text) {
  std::shared_ptr<const LogSink> sink;
  {
    MutexLock lock(&TheSink().mutex);
    sink = TheSink().sink;
  }
  if (*sink) (*sink)(level, text);
}

}  // namespace mi7
