#include "rpc/error_codec.h"

#include <span>
#include <string>
#include <utility>
#include <vector>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "rpc/call_outcome.h"
#include "rpc/message_reader.h"
#include "rpc/metadata_codec.h"
#include "schema/protocol.capnp.h"

namespace mi7 {
namespace {

using Payloads = std::vector<std::pair<std::string, std::string>>;

// Serialized ReturnExtra.
kj::Array<capnp::word> BuildExtra(absl::string_view text, const Payloads& payloads, bool refused,
                                  const ResponseMetadata* metadata) {
  capnp::MallocMessageBuilder builder;
  auto extra = builder.initRoot<protocol::ReturnExtra>();
  if (metadata != nullptr) WriteResponseMetadata(*metadata, extra);
  auto error = extra.initError();
  error.setMessage(kj::StringPtr(std::string(text).c_str()));
  error.setRefused(refused);
  auto details = error.initDetails(static_cast<unsigned>(payloads.size()));
  for (size_t i = 0; i < payloads.size(); ++i) {
    auto detail = details[static_cast<unsigned>(i)];
    detail.setType(payloads[i].first.c_str());
    detail.setValue(kj::arrayPtr(reinterpret_cast<const kj::byte*>(payloads[i].second.data()),
                                 payloads[i].second.size()));
  }
  return capnp::messageToFlatArray(builder);
}

// Bytes of a ReturnExtra besides its text, generously.
constexpr size_t kExtraOverheadBytes = 256;

}  // namespace

void EncodeError(const absl::Status& original, bool refused, const Limits& limits,
                 transport::MessageBody& message, const ResponseMetadata* metadata) {
  // A handler may pass on the status of a call of its own, whose outcome is not its caller's.
  const absl::Status status = WithoutOutcome(original);
  message.has_body = false;
  message.header.code = static_cast<uint16_t>(status.code());
  Payloads payloads;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    payloads.emplace_back(std::string(url), std::string(payload));
  });
  if (metadata != nullptr && metadata->empty()) metadata = nullptr;
  if (status.message().empty() && payloads.empty() && !refused && metadata == nullptr) return;

  std::string note;
  if (payloads.size() > limits.error_details_max) {
    note = absl::StrCat(" [left out by mi7: ", payloads.size(), " details, error_details_max is ",
                        limits.error_details_max, "]");
    payloads.clear();
  }
  if (metadata != nullptr) {
    if (const absl::Status sound = CheckResponseMetadata(*metadata, limits); !sound.ok()) {
      absl::StrAppend(&note, " [left out by mi7: ", sound.message(), "]");
      metadata = nullptr;
    }
  }
  // A NUL would end Cap'n Proto's text early when read as a C string; status texts have none.
  kj::Array<capnp::word> extra =
      BuildExtra(absl::StrCat(status.message(), note), payloads, refused, metadata);
  if (extra.asBytes().size() > limits.extra_bytes_max) {
    note = absl::StrCat(" [cut by mi7: message, details and metadata take ", extra.asBytes().size(),
                        " bytes, extra_bytes_max is ", limits.extra_bytes_max, "]");
    size_t room = limits.extra_bytes_max;
    room -= std::min(room, note.size() + kExtraOverheadBytes);
    extra = BuildExtra(absl::StrCat(status.message().substr(0, room), note), {}, refused, nullptr);
    if (extra.asBytes().size() > limits.extra_bytes_max) return;  // a tiny limit: the code alone
  }
  const auto bytes = extra.asBytes();
  message.SetExtra({reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()});
}

absl::Status DecodeError(const transport::IncomingMessage& message, const Limits& limits) {
  const uint16_t wire_code = message.header().code;
  const absl::StatusCode code =
      wire_code <= static_cast<uint16_t>(absl::StatusCode::kUnauthenticated)
          ? static_cast<absl::StatusCode>(wire_code)
          : absl::StatusCode::kUnknown;
  if (message.extra().empty()) return absl::Status(code, "");
  try {
    const auto words = kj::arrayPtr(reinterpret_cast<const capnp::word*>(message.extra().data()),
                                    message.extra().size() / sizeof(capnp::word));
    if (absl::Status valid = CheckSegmentCount(words, limits); !valid.ok()) {
      return absl::Status(code, absl::StrCat("(malformed error details: ", valid.message(), ")"));
    }
    capnp::FlatArrayMessageReader reader(words, ReaderOptionsFor(words.size(), limits));
    const auto error = reader.getRoot<protocol::ReturnExtra>().getError();
    const auto text = error.getMessage();
    const auto details = error.getDetails();
    absl::Status status(code, absl::string_view(text.begin(), text.size()));
    if (details.size() > limits.error_details_max) {
      status = absl::Status(code, absl::StrCat(status.message(), " (with ", details.size(),
                                               " error details, error_details_max is ",
                                               limits.error_details_max, ")"));
    } else {
      for (const auto detail : details) {
        const auto type = detail.getType();
        // What became of a call is for this side to say.
        if (absl::string_view(type.begin(), type.size()) == kOutcomePayload) continue;
        const auto value = detail.getValue().asChars();
        status.SetPayload(absl::string_view(type.begin(), type.size()),
                          absl::Cord(absl::string_view(value.begin(), value.size())));
      }
    }
    return error.getRefused() ? WithOutcome(status, CallOutcome::kRefused) : status;
  } catch (const kj::Exception& exception) {
    return absl::Status(
        code, absl::StrCat("(malformed error details: ", exception.getDescription().cStr(), ")"));
  }
}

}  // namespace mi7
