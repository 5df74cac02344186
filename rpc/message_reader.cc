#include "rpc/message_reader.h"

#include <exception>

#include "absl/strings/match.h"

namespace mi7 {
namespace {

// Whether Cap'n Proto threw because a message it was reading breaks its rules.
bool IsMalformedMessage(const kj::Exception& exception) {
  const absl::string_view file = exception.getFile();
  return absl::StrContains(file, "capnp/layout.") || absl::StrContains(file, "capnp/arena.") ||
         absl::StrContains(file, "capnp/message.") || absl::StrContains(file, "capnp/any.");
}

}  // namespace

absl::Status StatusOfException(absl::StatusCode malformed, absl::string_view what) {
  try {
    throw;
  } catch (const kj::Exception& exception) {
    const absl::string_view text = exception.getDescription().cStr();
    if (absl::StrContains(text, "traversal limit")) {
      return absl::Status(
          malformed,
          absl::StrCat(what,
                       ": reading the message exceeded limits.traversal_factor and "
                       "traversal_words_extra; each call of a list's getter counts the whole list, "
                       "so keep the list in a variable"));
    }
    if (IsMalformedMessage(exception)) {
      return absl::Status(malformed, absl::StrCat(what, ": malformed Cap'n Proto message: ", text));
    }
    return absl::InternalError(absl::StrCat(what, " threw kj::Exception: ", text));
  } catch (const std::exception& exception) {
    return absl::InternalError(absl::StrCat(what, " threw an exception: ", exception.what()));
  } catch (...) {
    return absl::InternalError(absl::StrCat(what, " threw something that is no std::exception"));
  }
}

}  // namespace mi7
