#pragma once

// Where mi7 reports what no return value can carry. Rare by design: nothing is logged per call.

#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace mi7 {

// How much a line matters: nothing is wrong; something was put right or given up; something is
// wrong that a person must see to.
enum class LogLevel { kInfo, kWarning, kError };

using LogSink = std::function<void(LogLevel level, absl::string_view text)>;

// Replaces the sink, which may be called on any thread, by several at a time, and must not call
// back into mi7. The default writes warnings and errors to stderr, one line each. An empty sink
// discards. Thread-safe.
void SetLogSink(LogSink sink);

// Thread-safe. `text` is one line without its end. In one that has control characters all the same,
// such as a peer's words, they are escaped (EscapedForLog): it stays one line, and no terminal that
// shows it obeys them.
void Log(LogLevel level, absl::string_view text);

// `text` of somebody else, for a line: control characters, those and the ends of lines of Unicode
// too, quotes and backslashes are escaped as in C.
std::string EscapedForLog(absl::string_view text);

}  // namespace mi7
