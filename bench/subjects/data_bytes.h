#pragma once

// Between bytes and Cap'n Proto's Data.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include <capnp/blob.h>

#include "transport/for_overwrite.h"

namespace mi7::bench {

// Does not copy.
inline capnp::Data::Reader ToData(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

// Does not copy.
inline std::string_view ToBytes(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}

// Makes the field "data" of a message of mi7's a copy: as its setData, with InitForOverwrite where
// that pays.
template <typename Builder>
void CopyData(Builder& message, capnp::Data::Reader data) {
  constexpr size_t kPaysFromBytes = 16u << 10;
  if (data.size() < kPaysFromBytes) {
    message.setData(data);
    return;
  }
  const auto bytes = static_cast<unsigned>(data.size());
  std::memcpy(InitForOverwrite(message, &Builder::initData, bytes).begin(), data.begin(), bytes);
}

}  // namespace mi7::bench
