#pragma once

// Typed details of a status: Cap'n Proto structs that travel with it.
//
//   absl::Status status = absl::InvalidArgumentError("divisor is 0");
//   capnp::MallocMessageBuilder message;
//   message.initRoot<DivisionProblem>().setDividend(7);
//   mi7::AttachDetail<DivisionProblem>(message, status);          // on the server
//
//   mi7::ReadDetail<DivisionProblem>(status, [](DivisionProblem::Reader problem) { ... });

#include <cstdint>
#include <functional>
#include <string>

#include <capnp/message.h>
#include <capnp/schema.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace mi7 {

// "capnp/" and the 16 hex digits of the struct's type id.
std::string DetailTypeUrl(uint64_t type_id);

// Attaches the message, whose root has type `type_id`, replacing an earlier detail of that type.
void AttachDetailOfType(uint64_t type_id, capnp::MessageBuilder& message, absl::Status& status);

// Calls `read` with a reader of the detail's message. False when the status has no such detail, it
// is malformed, or `read` threw a kj::Exception.
bool ReadDetailOfType(uint64_t type_id, const absl::Status& status,
                      absl::FunctionRef<void(capnp::MessageReader&)> read);

// Typed forms of the two; T is a generated struct.
template <typename T>
void AttachDetail(capnp::MessageBuilder& message, absl::Status& status) {
  AttachDetailOfType(capnp::typeId<T>(), message, status);
}
template <typename T, typename F>
bool ReadDetail(const absl::Status& status, F read) {
  return ReadDetailOfType(capnp::typeId<T>(), status,
                          [&read](capnp::MessageReader& message) { read(message.getRoot<T>()); });
}

}  // namespace mi7
