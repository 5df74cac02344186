#include "rpc/status_details.h"

#include <capnp/serialize.h>
#include <kj/exception.h>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "rpc/message_reader.h"

namespace mi7 {

std::string DetailTypeUrl(uint64_t type_id) {
  return absl::StrCat("capnp/", absl::Hex(type_id, absl::kZeroPad16));
}

void AttachDetailOfType(uint64_t type_id, capnp::MessageBuilder& message, absl::Status& status) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  const auto bytes = words.asBytes();
  status.SetPayload(
      DetailTypeUrl(type_id),
      absl::Cord(absl::string_view(reinterpret_cast<const char*>(bytes.begin()), bytes.size())));
}

bool ReadDetailOfType(uint64_t type_id, const absl::Status& status,
                      absl::FunctionRef<void(capnp::MessageReader&)> read) {
  const absl::optional<absl::Cord> payload = status.GetPayload(DetailTypeUrl(type_id));
  if (!payload.has_value() || payload->empty() || payload->size() % sizeof(capnp::word) != 0) {
    return false;
  }
  // A copy, because a Cord's bytes are neither contiguous nor aligned.
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>(payload->size() / sizeof(capnp::word));
  char* out = reinterpret_cast<char*>(words.begin());
  for (absl::string_view chunk : payload->Chunks()) {
    out = std::copy(chunk.begin(), chunk.end(), out);
  }
  const Limits limits;
  if (!CheckSegmentCount(words, limits).ok()) return false;
  try {
    capnp::FlatArrayMessageReader message(words, ReaderOptionsFor(words.size(), limits));
    read(message);
    return true;
  } catch (const kj::Exception&) {
    return false;
  }
}

}  // namespace mi7
