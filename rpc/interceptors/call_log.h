#pragma once

// A line in the log for each call that ends, for machines and people:
//
//   side=server method=Calculator.divide peer=tcp:127.0.0.1:40312 code=INVALID_ARGUMENT
//   latency_us=18 message="divisor is 0" trace=0af7651916cd43dd8448eb211c80319c
//
// (one line). Fields are key=value in this order; message and trace only where there are any. A
// value that has more than [!-~] without '"', '\\' and '=' is quoted, and escaped as in C. Peers
// choose some of the text: nothing that they send can begin another line or field, and it is cut at
// 512 bytes.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "rpc/interceptor.h"

namespace mi7 {

// A value type.
struct CallLogOptions {
  // How much it matters that a call ended like this; nothing is logged for std::nullopt. Called for
  // each call, on any thread, several at a time. Empty: LevelByCode.
  std::function<std::optional<LogLevel>(absl::StatusCode code, absl::Duration latency)> level = {};
  // Where the lines go, on any thread, several at a time. Empty: Log() of base/log.h.
  LogSink sink = {};
  // Metadata of the request that is logged, by key, as metadata.KEY=VALUE. Values can be secrets:
  // none by default.
  std::vector<std::string> metadata_keys = {};
};

// kInfo for OK and for what callers do wrong or ask for; kError for what only the server can be
// blamed for (UNKNOWN, INTERNAL, DATA_LOSS); kWarning for what comes in between (DEADLINE_EXCEEDED,
// RESOURCE_EXHAUSTED, UNAVAILABLE, UNIMPLEMENTED, ...).
LogLevel LevelByCode(absl::StatusCode code);

// For a channel or a server. Put it first, to see what the other interceptors make of a call.
std::shared_ptr<Interceptor> MakeCallLog(CallLogOptions options = {});

}  // namespace mi7
