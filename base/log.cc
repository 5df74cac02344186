#include "base/log.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
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

// C1 control characters and Unicode's own line ends, as UTF-8, which a C escape leaves alone.
bool HasFurtherControls(absl::string_view text) {
  for (size_t i = 0; i + 1 < text.size(); ++i) {
    const auto at = [&](size_t offset) { return static_cast<unsigned char>(text[i + offset]); };
    if (at(0) == 0xc2 && at(1) >= 0x80 && at(1) < 0xa0) return true;
    if (at(0) == 0xe2 && at(1) == 0x80 && i + 2 < text.size() && (at(2) & 0xfe) == 0xa8)
      return true;
  }
  return false;
}

bool HasControls(absl::string_view text) {
  const auto is_control = [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); };
  return std::any_of(text.begin(), text.end(), is_control) || HasFurtherControls(text);
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
  if (!*sink) return;
  if (HasControls(text)) {
    (*sink)(level, EscapedForLog(text));
  } else {
    (*sink)(level, text);
  }
}

std::string EscapedForLog(absl::string_view text) {
  return HasFurtherControls(text) ? absl::CHexEscape(text) : absl::Utf8SafeCEscape(text);
}

}  // namespace mi7
