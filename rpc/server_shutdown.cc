#include "rpc/server_shutdown.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace mi7 {

std::optional<Deadline> ServerShutdown::Step() {
  if (stage_ == Stage::kServing) {
    stage_ = Stage::kDraining;
    sessions_.Drain();
  }
  if (sessions_.size() == 0) return std::nullopt;
  if (stage_ == Stage::kDraining) {
    if (!deadline_.passed()) return deadline_;
    stage_ = Stage::kClosing;
    const ServerSessions::CutOff cut_off = sessions_.Close();
    if (cut_off.calls != 0 || cut_off.unread != 0) {
      std::string what =
          absl::StrCat(cut_off.calls, " calls on ", cut_off.connections, " connections");
      if (cut_off.unread != 0) {
        absl::StrAppend(&what, ", and answers that ", cut_off.unread, " clients had not read,");
      }
      result_ = absl::DeadlineExceededError(what + " were cut off at the deadline");
    }
  }
  // Bounded: closing waits for no peer, and a loop is held up at most by a handler that runs.
  return Deadline::Infinite();
}

}  // namespace mi7
