#pragma once

// RequestId: by what a server recognizes a call that is repeated ($Mi7.deduplicate).

#include <sys/random.h>

#include <array>
#include <cstddef>
#include <optional>

#include "absl/strings/string_view.h"

namespace mi7 {

// 128 bits that name one call, in all its attempts, and no other call ever. A value type.
class RequestId {
 public:
  static constexpr size_t kBytes = 16;

  // A new one that nobody can guess.
  static RequestId Random() {
    RequestId id;
    for (size_t filled = 0; filled < kBytes;) {
      const ssize_t got = ::getrandom(id.bytes_.data() + filled, kBytes - filled, 0);
      // Interrupted by a signal; there is no other failure of so few bytes.
      if (got > 0) filled += static_cast<size_t>(got);
    }
    return id;
  }
  // For an application that has kept the id of a call, to make it once more. nullopt unless these
  // are kBytes bytes.
  static std::optional<RequestId> From(absl::string_view bytes) {
    if (bytes.size() != kBytes) return std::nullopt;
    RequestId id;
    bytes.copy(id.bytes_.data(), kBytes);
    return id;
  }
  absl::string_view bytes() const { return {bytes_.data(), kBytes}; }

  friend bool operator==(const RequestId&, const RequestId&) = default;

 private:
  RequestId() = default;
  std::array<char, kBytes> bytes_;
};

}  // namespace mi7
