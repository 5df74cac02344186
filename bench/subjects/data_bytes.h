#pragma once

// Between bytes and Cap'n Proto's Data. Neither copies.

#include <cstdint>
#include <string>
#include <string_view>

#include <capnp/blob.h>

namespace mi7::bench {

inline capnp::Data::Reader ToData(const std::string& bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

inline std::string_view ToBytes(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}

}  // namespace mi7::bench
