#include "rpc/trace_context.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <span>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"

namespace mi7 {
namespace {

constexpr size_t kTraceparentBytes = 55;  // version 00; later ones only add to it

// Fills `id` with random bytes that are not all zero. From the system each time: a generator in
// this process would give a fork the same ids.
void Randomize(std::span<uint8_t> id) {
  do {
    ssize_t got;
    do {
      got = ::getrandom(id.data(), id.size(), 0);
    } while (got < 0 && errno == EINTR);
    MI7_CHECK(got == static_cast<ssize_t>(id.size()), "the system gives up to 256 bytes at once");
  } while (std::all_of(id.begin(), id.end(), [](uint8_t byte) { return byte == 0; }));
}

std::string Hex(std::span<const uint8_t> bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

// Lower-case hex, as the standard demands; false when it is something else.
bool ReadHex(absl::string_view text, std::span<uint8_t> bytes) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = digit(text[2 * i]);
    const int low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return true;
}

bool ReadId(absl::string_view text, std::span<uint8_t> id) {
  return ReadHex(text, id) &&
         std::any_of(id.begin(), id.end(), [](uint8_t byte) { return byte != 0; });
}

// "vendor" or "tenant@vendor".
bool IsStateKey(absl::string_view key) {
  constexpr size_t kKeyBytesMax = 256;
  if (key.empty() || key.size() > kKeyBytesMax) return false;
  const auto allowed = [](char c) {
    return absl::ascii_islower(static_cast<unsigned char>(c)) ||
           absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '*' ||
           c == '/' || c == '@';
  };
  return std::all_of(key.begin(), key.end(), allowed) && key.front() != '@' && key.back() != '@' &&
         std::count(key.begin(), key.end(), '@') <= 1;
}

bool IsStateValue(absl::string_view value) {
  constexpr size_t kValueBytesMax = 256;
  return !value.empty() && value.size() <= kValueBytesMax &&
         std::all_of(value.begin(), value.end(),
                     [](char c) { return c >= 0x20 && c <= 0x7e && c != ',' && c != '='; });
}

bool IsState(absl::string_view state) {
  // Spaces and tabs are allowed around a member, no other white space anywhere.
  const bool visible = std::all_of(state.begin(), state.end(),
                                   [](char c) { return (c >= 0x20 && c <= 0x7e) || c == '\t'; });
  if (!visible || state.size() > kTraceStateBytesMax) return false;
  std::vector<absl::string_view> keys;
  for (absl::string_view member : absl::StrSplit(state, ',')) {
    member = absl::StripAsciiWhitespace(member);
    if (member.empty()) continue;  // allowed
    const size_t equals = member.find('=');
    if (equals == absl::string_view::npos) return false;
    const absl::string_view key = member.substr(0, equals);
    if (!IsStateKey(key) || !IsStateValue(member.substr(equals + 1))) return false;
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) return false;
    keys.push_back(key);
    if (keys.size() > kTraceStateMembersMax) return false;
  }
  return true;
}

}  // namespace

TraceContext TraceContext::NewRoot(bool sampled) {
  TraceContext root;
  Randomize(root.trace_id);
  Randomize(root.span_id);
  root.flags = sampled ? kSampled : 0;
  return root;
}

TraceContext TraceContext::NewChild() const {
  TraceContext child = *this;
  Randomize(child.span_id);
  return child;
}

std::optional<TraceContext> TraceContext::Parse(absl::string_view traceparent,
                                                absl::string_view tracestate) {
  // version (2) - trace id (32) - span id (16) - flags (2)
  const absl::string_view text = traceparent;
  if (text.size() < kTraceparentBytes || text[2] != '-' || text[35] != '-' || text[52] != '-') {
    return std::nullopt;
  }
  uint8_t version;
  uint8_t flags;
  TraceContext context;
  if (!ReadHex(text.substr(0, 2), {&version, 1}) || version == 0xff ||
      !ReadId(text.substr(3, 32), context.trace_id) ||
      !ReadId(text.substr(36, 16), context.span_id) || !ReadHex(text.substr(53, 2), {&flags, 1})) {
    return std::nullopt;
  }
  if (text.size() != kTraceparentBytes && (version == 0 || text[kTraceparentBytes] != '-')) {
    return std::nullopt;
  }
  context.flags = flags & (kSampled | kRandom);
  if (IsState(tracestate)) context.state = std::string(tracestate);
  return context;
}

std::string TraceContext::traceparent() const {
  return absl::StrCat("00-", trace_id_hex(), "-", span_id_hex(), "-",
                      absl::Hex(flags, absl::kZeroPad2));
}

std::string TraceContext::trace_id_hex() const { return Hex(trace_id); }

std::string TraceContext::span_id_hex() const { return Hex(span_id); }

}  // namespace mi7
