#pragma once

// Metadata: what travels with a call besides its parameters and results, for those who handle calls
// without knowing their types: tokens, tenants, request ids.
//
//   auto metadata = std::make_shared<mi7::Metadata>();
//   metadata->Add("tenant", "blue").AddBinary("signature", bytes);
//   auto request = stub.Echo({.metadata = metadata});
//
// A list in the order in which it was made; keys may repeat. Each value is text or binary.

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/limits.h"

namespace mi7 {

// A value type. Not thread-safe.
class Metadata {
 public:
  struct Entry {
    std::string key;
    std::string value;
    bool binary = false;
    friend bool operator==(const Entry&, const Entry&) = default;
  };

  Metadata() = default;
  // Of text values.
  Metadata(std::initializer_list<std::pair<absl::string_view, absl::string_view>> entries);

  // Adds an entry at the end. What is against the rules of CheckMetadata fails the call that it
  // would travel with.
  Metadata& Add(absl::string_view key, absl::string_view text);
  Metadata& AddBinary(absl::string_view key, absl::string_view bytes);
  // Removes the entries with `key`; how many there were.
  size_t Remove(absl::string_view key);

  // The first text, or binary, value with `key`. Valid until the metadata changes.
  std::optional<absl::string_view> Get(absl::string_view key) const { return Find(key, false); }
  std::optional<absl::string_view> GetBinary(absl::string_view key) const {
    return Find(key, true);
  }

  const std::vector<Entry>& entries() const { return entries_; }
  bool empty() const { return entries_.empty(); }

  friend bool operator==(const Metadata&, const Metadata&) = default;

 private:
  std::optional<absl::string_view> Find(absl::string_view key, bool binary) const;
  std::vector<Entry> entries_;
};

// Bytes of a key at most.
inline constexpr size_t kMetadataKeyBytesMax = 256;

// The rules, which both the sender and the receiver check:
// * a key is 1 to 256 of [a-z0-9_.-];
// * a text value is UTF-8 without control characters (those below 0x20, and 0x7f), so that it can
//   be put into a log line or a header as it is; anything else is a binary value;
// * at most limits.metadata_entries_max entries, whose keys and values together have at most
//   limits.extra_bytes_max bytes.
// INVALID_ARGUMENT names the key or value, RESOURCE_EXHAUSTED the limit.
absl::Status CheckMetadata(const Metadata& metadata, const Limits& limits);

// What a server sends back besides the results or the status: initial metadata with the first
// message of a stream, or else with the return; trailing metadata always with the return.
struct ResponseMetadata {
  Metadata initial;
  Metadata trailing;
  bool empty() const { return initial.empty() && trailing.empty(); }
};

}  // namespace mi7
