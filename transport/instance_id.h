#pragma once

// InstanceId: 16 random bytes that name one listener for as long as it lives, and nothing else ever
// (protocol.capnp Hello.instanceId).
//
// The name is also a secret of sorts: a client learns it from the server itself over TCP, and finds
// by it the Unix socket at which the same server offers shared memory. Whoever does not own the TCP
// endpoint cannot guess it.

#include <sys/random.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace mi7::transport {

// A value type; all zero when there is none.
struct InstanceId {
  std::array<std::byte, 16> bytes{};

  // A new one. All zero when the system has no randomness yet (early in its start).
  static InstanceId Random() {
    InstanceId id;
    size_t filled = 0;
    while (filled < id.bytes.size()) {
      const ssize_t got =
          ::getrandom(id.bytes.data() + filled, id.bytes.size() - filled, GRND_NONBLOCK);
      if (got <= 0) return InstanceId();
      filled += static_cast<size_t>(got);
    }
    return id;
  }

  // From what a Hello says; all zero unless it is 16 bytes.
  static InstanceId From(std::span<const std::byte> data) {
    InstanceId id;
    if (data.size() == id.bytes.size()) {
      for (size_t i = 0; i < data.size(); ++i) id.bytes[i] = data[i];
    }
    return id;
  }

  // As many of its bits; 0 when there is none, and hardly ever otherwise.
  uint64_t Prefix() const {
    uint64_t prefix;
    std::memcpy(&prefix, bytes.data(), sizeof(prefix));
    return prefix;
  }

  explicit operator bool() const { return *this != InstanceId(); }
  // 32 lower-case hex digits.
  std::string ToString() const {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const std::byte byte : bytes) {
      text += kDigits[std::to_integer<size_t>(byte) >> 4];
      text += kDigits[std::to_integer<size_t>(byte) & 15];
    }
    return text;
  }

  friend bool operator==(const InstanceId&, const InstanceId&) = default;
};

}  // namespace mi7::transport
