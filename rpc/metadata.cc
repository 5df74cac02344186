#include "rpc/metadata.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace mi7 {
namespace {

// For messages: what it was, not too much of it.
std::string Quoted(absl::string_view text) {
  constexpr size_t kShownMax = 64;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kShownMax)),
                      text.size() > kShownMax ? "...\"" : "\"");
}

bool IsKey(absl::string_view key) {
  return !key.empty() && key.size() <= kMetadataKeyBytesMax &&
         std::all_of(key.begin(), key.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' ||
                  c == '-';
         });
}

// The length of the UTF-8 sequence that `text` begins with; 0 when it is none, or a control
// character. Unicode 15, table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF.
size_t CharacterBytes(absl::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return first < 0x20 || first == 0x7f ? 0 : 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  const uint8_t second_min = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const uint8_t second_max = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (byte(1) < second_min || byte(1) > second_max) return 0;
  for (size_t i = 2; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

bool IsText(absl::string_view value) {
  while (!value.empty()) {
    const size_t bytes = CharacterBytes(value);
    if (bytes == 0) return false;
    value.remove_prefix(bytes);
  }
  return true;
}

}  // namespace

Metadata::Metadata(std::initializer_list<std::pair<absl::string_view, absl::string_view>> entries) {
  entries_.reserve(entries.size());
  for (const auto& [key, text] : entries) Add(key, text);
}

Metadata& Metadata::Add(absl::string_view key, absl::string_view text) {
  entries_.push_back({std::string(key), std::string(text), false});
  return *this;
}

Metadata& Metadata::AddBinary(absl::string_view key, absl::string_view bytes) {
  entries_.push_back({std::string(key), std::string(bytes), true});
  return *this;
}

size_t Metadata::Remove(absl::string_view key) {
  return std::erase_if(entries_, [key](const Entry& entry) { return entry.key == key; });
}

std::optional<absl::string_view> Metadata::Find(absl::string_view key, bool binary) const {
  for (const Entry& entry : entries_) {
    if (entry.binary == binary && entry.key == key) return entry.value;
  }
  return std::nullopt;
}

absl::Status CheckMetadata(const Metadata& metadata, const Limits& limits) {
  if (metadata.entries().size() > limits.metadata_entries_max) {
    return absl::ResourceExhaustedError(absl::StrCat("metadata of ", metadata.entries().size(),
                                                     " entries, metadata_entries_max is ",
                                                     limits.metadata_entries_max));
  }
  size_t bytes = 0;
  for (const Metadata::Entry& entry : metadata.entries()) {
    if (!IsKey(entry.key)) {
      return absl::InvalidArgumentError(absl::StrCat("metadata key ", Quoted(entry.key), " of ",
                                                     entry.key.size(), " bytes is not 1 to ",
                                                     kMetadataKeyBytesMax, " of [a-z0-9_.-]"));
    }
    if (!entry.binary && !IsText(entry.value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("metadata ", entry.key, " has the text value ", Quoted(entry.value),
                       ", which is not UTF-8 without control characters"));
    }
    bytes += entry.key.size() + entry.value.size();
  }
  if (bytes > limits.extra_bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("metadata of ", bytes, " bytes, extra_bytes_max is ", limits.extra_bytes_max));
  }
  return absl::OkStatus();
}

}  // namespace mi7
