#pragma once

// Checks all pointers of a small message once, so that it can be read without looking at each of
// them again.

#include <cstdint>

#include <capnp/common.h>
#include <capnp/schema.h>
#include <kj/common.h>

namespace mi7 {

// Whether every pointer of a message that is one `segment` leads to a struct or list that lies
// inside it, the objects have no more words together than the segment has, and none is nested
// deeper than `nesting_max`, as Cap'n Proto counts it: such a message may be read with
// capnp::readMessageUnchecked, but not as a schema that MentionsAnyPointer.
//
// False says nothing: for that one, Cap'n Proto's own reader has the last word. It is said of every
// message that is out of the ordinary (far pointers, capabilities, lists of nothing, which cost
// nothing to send), and of one with more than kCheckedPointersMax pointers, for which the check
// would take longer than a reader's arena. At most that many steps.
//
// The memory must be such that nobody can change it between the check and the last read.
//
// The format: https://capnproto.org/encoding.html.
bool PointersAreSound(kj::ArrayPtr<const capnp::word> segment, uint32_t nesting_max);

inline constexpr uint32_t kCheckedPointersMax = 32;

// Whether a reader of `schema` can come to an AnyPointer (or a capability): by AnyList::as, which
// does not look at what the elements are, it could take data for pointers, which nobody has
// checked. Walks all schemas that it leads to; to be asked once for each.
bool MentionsAnyPointer(capnp::StructSchema schema);

// Before it, a list of structs that was read as a list of pointers had data for pointers.
static_assert(CAPNP_VERSION >= 9002, "mi7 needs Cap'n Proto 0.9.2 or later");

}  // namespace mi7
