#include "tools/mi7/pipe_status.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace mi7::tools {

namespace {

// Bytes of the UTF-8 character that `text` begins with; 0 when it begins with none. (RFC 3629: no
// longer form than needed, no surrogates, nothing above U+10FFFF.)
size_t Utf8Bytes(absl::string_view text) {
  const auto byte = [&text](size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t bytes = first >= 0xC2 && first <= 0xDF   ? 2
                       : first >= 0xE0 && first <= 0xEF ? 3
                       : first >= 0xF0 && first <= 0xF4 ? 4
                                                        : 0;
  if (bytes == 0 || text.size() < bytes) return 0;
  for (size_t at = 1; at < bytes; ++at) {
    if ((byte(at) & 0xC0) != 0x80) return 0;
  }
  const unsigned char second = byte(1);
  const bool possible = (first != 0xE0 || second >= 0xA0) && (first != 0xED || second < 0xA0) &&
                        (first != 0xF0 || second >= 0x90) && (first != 0xF4 || second < 0x90);
  return possible ? bytes : 0;
}

}  // namespace

std::string JsonString(absl::string_view text) {
  std::string json = "\"";
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text[0]);
    const size_t bytes = Utf8Bytes(text);
    if (byte == '"' || byte == '\\') {
      absl::StrAppend(&json, "\\", text.substr(0, 1));
    } else if (bytes == 0 || byte < 0x20 || byte == 0x7F) {
      absl::StrAppendFormat(&json, "\\u%04x", byte);
    } else {
      absl::StrAppend(&json, text.substr(0, bytes));
    }
    text.remove_prefix(std::max<size_t>(bytes, 1));
  }
  return json + "\"";
}

uint32_t TakingPart(const PipeStatus& status) {
  uint32_t alive = 0;
  for (const PipeParticipant& p : status.participants) alive += p.alive ? 1 : 0;
  return alive;
}

std::string StatusText(const PipeStatus& s) {
  std::string text = absl::StrFormat(
      "%s: %u slots of %u bytes, created %s%s\n"
      "  slots     %u empty, %u writing, %u ready, %u reading, %u in progress, %u dead letters\n"
      "  messages  %u sent, %u received, %u redelivered, %u dead-lettered (after %u attempts)\n"
      "  recovered %u participants, %u slots\n",
      s.name, s.options.slots, s.options.slot_bytes, absl::FormatTime(s.created),
      s.options.checksum ? ", with checksums" : "", s.empty, s.writing, s.ready, s.reading,
      s.in_progress, s.dead_letters, s.sent, s.received, s.redelivered, s.dead_lettered,
      s.options.attempts_max, s.recovered_participants, s.recovered_slots);
  absl::StrAppendFormat(&text, "  taking part: %u of %u\n", TakingPart(s), s.options.participants);
  for (const PipeParticipant& p : s.participants) {
    // Others choose their names: nothing in them moves a terminal's cursor.
    const std::string quoted = JsonString(p.name);
    const std::string name = quoted.substr(1, quoted.size() - 2);
    absl::StrAppendFormat(&text, "  %5u  process %-8u %-20s since %s, has %u slots%s\n", p.index,
                          p.pid, name,
                          absl::FormatTime("%H:%M:%S", p.joined, absl::LocalTimeZone()),
                          p.slots_owned, p.alive ? "" : ", dead: not recovered yet");
  }
  return text;
}

std::string StatusJson(const PipeStatus& s) {
  std::string json = absl::StrFormat(
      "{\"name\":%s,\"slots\":%u,\"slot_bytes\":%u,\"participants_max\":%u,\"attempts_max\":%u,"
      "\"checksum\":%s,\"created_unix_ns\":%d,\"empty\":%u,\"writing\":%u,\"ready\":%u,"
      "\"reading\":%u,\"in_progress\":%u,\"dead_letters\":%u,\"sent\":%u,\"received\":%u,"
      "\"redelivered\":%u,\"dead_lettered\":%u,\"recovered_participants\":%u,"
      "\"recovered_slots\":%u,\"participants\":[",
      JsonString(s.name), s.options.slots, s.options.slot_bytes, s.options.participants,
      s.options.attempts_max, s.options.checksum ? "true" : "false", absl::ToUnixNanos(s.created),
      s.empty, s.writing, s.ready, s.reading, s.in_progress, s.dead_letters, s.sent, s.received,
      s.redelivered, s.dead_lettered, s.recovered_participants, s.recovered_slots);
  bool first = true;
  for (const PipeParticipant& p : s.participants) {
    absl::StrAppendFormat(&json,
                          "%s{\"index\":%u,\"pid\":%u,\"name\":%s,\"joined_unix_ns\":%d,"
                          "\"alive\":%s,\"slots_owned\":%u}",
                          first ? "" : ",", p.index, p.pid, JsonString(p.name),
                          absl::ToUnixNanos(p.joined), p.alive ? "true" : "false", p.slots_owned);
    first = false;
  }
  return json + "]}";
}

}  // namespace mi7::tools
