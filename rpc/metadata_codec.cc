#include "rpc/metadata_codec.h"

#include <algorithm>
#include <string>
#include <utility>

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "rpc/message_reader.h"

namespace mi7 {
namespace {

using transport::IncomingMessage;
using transport::MessageBody;
using EntryList = capnp::List<protocol::MetadataEntry>;

absl::string_view View(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

// As Cap'n Proto wants it: a NUL follows.
capnp::Text::Reader TextOf(const std::string& text) { return {text.c_str(), text.size()}; }

void Write(const Metadata& metadata, EntryList::Builder list) {
  unsigned index = 0;
  for (const Metadata::Entry& from : metadata.entries()) {
    auto to = list[index++];
    to.setKey(TextOf(from.key));
    if (from.binary) {
      to.getValue().setBinary(
          kj::arrayPtr(reinterpret_cast<const kj::byte*>(from.value.data()), from.value.size()));
    } else {
      to.getValue().setText(TextOf(from.value));
    }
  }
}

// May throw kj::Exception.
absl::Status Read(EntryList::Reader list, const Limits& limits, Metadata& metadata) {
  if (list.size() > limits.metadata_entries_max) {
    return absl::ResourceExhaustedError(absl::StrCat("metadata of ", list.size(),
                                                     " entries, metadata_entries_max is ",
                                                     limits.metadata_entries_max));
  }
  size_t bytes = 0;
  for (const auto from : list) {
    const absl::string_view key = View(from.getKey());
    const auto value = from.getValue();
    absl::string_view bytes_of_value;
    if (value.isBinary()) {
      const auto binary = value.getBinary().asChars();
      bytes_of_value = {binary.begin(), binary.size()};
    } else if (value.isText()) {
      bytes_of_value = View(value.getText());
    } else {
      return absl::InvalidArgumentError("metadata with a value of an unknown kind");
    }
    // Before it is copied: entries may all be the same bytes of the message.
    bytes += key.size() + bytes_of_value.size();
    if (bytes > limits.extra_bytes_max) {
      return absl::ResourceExhaustedError(
          absl::StrCat("metadata of more bytes than extra_bytes_max, ", limits.extra_bytes_max));
    }
    if (value.isBinary()) {
      metadata.AddBinary(key, bytes_of_value);
    } else {
      metadata.Add(key, bytes_of_value);
    }
  }
  return CheckMetadata(metadata, limits);
}

// Calls `read` with a reader of the extra part; OK when there is none.
absl::Status ReadExtra(const IncomingMessage& message, const Limits& limits,
                       absl::FunctionRef<absl::Status(capnp::MessageReader&)> read) {
  if (message.extra().empty()) return absl::OkStatus();
  const auto words = kj::arrayPtr(reinterpret_cast<const capnp::word*>(message.extra().data()),
                                  message.extra().size() / sizeof(capnp::word));
  try {
    if (absl::Status valid = CheckSegmentCount(words, limits); !valid.ok()) return valid;
    capnp::FlatArrayMessageReader reader(words, ReaderOptionsFor(words.size(), limits));
    return read(reader);
  } catch (const kj::Exception& exception) {
    return absl::InvalidArgumentError(
        absl::StrCat("malformed extra part: ", exception.getDescription().cStr()));
  }
}

void SetExtra(kj::ArrayPtr<const kj::byte> bytes, MessageBody& message) {
  message.SetExtra({reinterpret_cast<const std::byte*>(bytes.begin()), bytes.size()});
}

}  // namespace

absl::Status EncodeCallExtra(const Metadata& metadata, const TraceContext* trace,
                             uint32_t previous_attempts, const Limits& limits, MessageBody& message,
                             absl::string_view request_id, uint64_t may_have_run_for_us) {
  if (metadata.empty() && trace == nullptr && previous_attempts == 0 && request_id.empty()) {
    return absl::OkStatus();
  }
  if (absl::Status sound = CheckMetadata(metadata, limits); !sound.ok()) return sound;
  capnp::MallocMessageBuilder builder;
  auto extra = builder.initRoot<protocol::CallExtra>();
  if (!metadata.empty()) {
    Write(metadata, extra.initMetadata(static_cast<unsigned>(metadata.entries().size())));
  }
  if (trace != nullptr) {
    auto context = extra.initTraceContext();
    context.setTraceparent(TextOf(trace->traceparent()));
    if (!trace->state.empty()) context.setTracestate(TextOf(trace->state));
  }
  extra.setPreviousAttempts(static_cast<uint16_t>(std::min<uint32_t>(previous_attempts, 0xffff)));
  if (!request_id.empty()) {
    extra.setRequestId(
        kj::arrayPtr(reinterpret_cast<const kj::byte*>(request_id.data()), request_id.size()));
  }
  extra.setMayHaveRunForUs(may_have_run_for_us);
  SetExtra(capnp::messageToFlatArray(builder).asBytes(), message);
  return absl::OkStatus();
}

absl::Status DecodeCallExtra(const IncomingMessage& message, const Limits& limits,
                             CallExtra& extra) {
  return ReadExtra(message, limits, [&](capnp::MessageReader& reader) {
    const auto from = reader.getRoot<protocol::CallExtra>();
    extra.previous_attempts = from.getPreviousAttempts();
    const auto request_id = from.getRequestId().asChars();
    if (request_id.size() > kRequestIdBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("request id of ", request_id.size(),
                                                     " bytes, at most ", kRequestIdBytesMax,
                                                     " are allowed"));
    }
    extra.request_id.assign(request_id.begin(), request_id.size());
    extra.may_have_run_for_us = from.getMayHaveRunForUs();
    if (from.hasTraceContext()) {
      const auto context = from.getTraceContext();
      if (std::optional<TraceContext> trace =
              TraceContext::Parse(View(context.getTraceparent()), View(context.getTracestate()))) {
        extra.trace = std::make_shared<const TraceContext>(*std::move(trace));
      }
    }
    return Read(from.getMetadata(), limits, extra.metadata);
  });
}

absl::Status CheckResponseMetadata(const ResponseMetadata& metadata, const Limits& limits) {
  absl::Status sound = CheckMetadata(metadata.initial, limits);
  return sound.ok() ? CheckMetadata(metadata.trailing, limits) : sound;
}

void WriteResponseMetadata(const ResponseMetadata& metadata, protocol::ReturnExtra::Builder extra) {
  if (const size_t size = metadata.initial.entries().size(); size != 0) {
    Write(metadata.initial, extra.initInitialMetadata(static_cast<unsigned>(size)));
  }
  if (const size_t size = metadata.trailing.entries().size(); size != 0) {
    Write(metadata.trailing, extra.initTrailingMetadata(static_cast<unsigned>(size)));
  }
}

absl::Status EncodeResponseMetadata(const ResponseMetadata& metadata, const Limits& limits,
                                    MessageBody& message) {
  if (metadata.empty()) return absl::OkStatus();
  if (absl::Status sound = CheckResponseMetadata(metadata, limits); !sound.ok()) return sound;
  capnp::MallocMessageBuilder builder;
  WriteResponseMetadata(metadata, builder.initRoot<protocol::ReturnExtra>());
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  // Where the connection refused it a stream's first message would be refused with it.
  if (words.asBytes().size() > limits.extra_bytes_max) {
    return absl::ResourceExhaustedError(
        absl::StrCat("metadata that travel as ", words.asBytes().size(),
                     " bytes, extra_bytes_max is ", limits.extra_bytes_max));
  }
  SetExtra(words.asBytes(), message);
  return absl::OkStatus();
}

absl::Status DecodeResponseMetadata(const IncomingMessage& message, const Limits& limits,
                                    ResponseMetadata& metadata) {
  absl::Status status = ReadExtra(message, limits, [&](capnp::MessageReader& reader) {
    const auto extra = reader.getRoot<protocol::ReturnExtra>();
    absl::Status read = Read(extra.getInitialMetadata(), limits, metadata.initial);
    return read.ok() ? Read(extra.getTrailingMetadata(), limits, metadata.trailing) : read;
  });
  if (!status.ok()) metadata = {};
  return status;
}

}  // namespace mi7
