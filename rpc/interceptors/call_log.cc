#include "rpc/interceptors/call_log.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mi7 {
namespace {

constexpr size_t kValueBytesMax = 512;

void AppendField(absl::string_view key, absl::string_view value, std::string& line) {
  absl::StrAppend(&line, line.empty() ? "" : " ", key, "=");
  const absl::string_view shown = value.substr(0, kValueBytesMax);
  const bool plain = !shown.empty() && shown.size() == value.size() &&
                     std::all_of(shown.begin(), shown.end(), [](char c) {
                       return c > ' ' && c <= '~' && c != '"' && c != '\\' && c != '=';
                     });
  if (plain) {
    absl::StrAppend(&line, shown);
  } else {
    absl::StrAppend(&line, "\"", EscapedForLog(shown),
                    shown.size() < value.size() ? "...\"" : "\"");
  }
}

class CallLog final : public Interceptor {
 public:
  explicit CallLog(CallLogOptions options) : options_(std::move(options)) {}

  void OnEnd(InterceptedCall& call) override {
    const absl::Duration latency = call.elapsed();
    const absl::StatusCode code = call.status().code();
    const std::optional<LogLevel> level =
        options_.level ? options_.level(code, latency) : LevelByCode(code);
    if (!level) return;
    const std::string line = Line(call, latency);
    if (options_.sink) {
      options_.sink(*level, line);
    } else {
      Log(*level, line);
    }
  }

 private:
  std::string Line(InterceptedCall& call, absl::Duration latency) const {
    std::string line;
    AppendField("side", call.side() == InterceptedCall::Side::kClient ? "client" : "server", line);
    AppendField("method", call.method().name, line);
    AppendField("peer", call.peer(), line);
    AppendField("code", absl::StatusCodeToString(call.status().code()), line);
    AppendField("latency_us", absl::StrCat(absl::ToInt64Microseconds(latency)), line);
    if (!call.status().message().empty()) AppendField("message", call.status().message(), line);
    if (const auto trace = call.trace()) AppendField("trace", trace->trace_id_hex(), line);
    for (const std::string& key : options_.metadata_keys) {
      if (const auto value = call.metadata().Get(key)) {
        AppendField(absl::StrCat("metadata.", key), *value, line);
      }
    }
    return line;
  }

  const CallLogOptions options_;
};

}  // namespace

LogLevel LevelByCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnauthenticated:
      return LogLevel::kInfo;
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kDataLoss:
      return LogLevel::kError;
    default:
      return LogLevel::kWarning;
  }
}

std::shared_ptr<Interceptor> MakeCallLog(CallLogOptions options) {
  return std::make_shared<CallLog>(std::move(options));
}

}  // namespace mi7
