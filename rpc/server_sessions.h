#pragma once

// ServerSessions: the connections of a server, from when each is accepted until it has ended, and
// what is left of them then.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "base/deadline.h"
#include "base/mutex.h"
#include "rpc/server_statistics.h"
#include "rpc/session.h"

namespace mi7 {

// Thread-safe.
class ServerSessions {
 public:
  // Not after Drain.
  void Add(std::shared_ptr<Session> session);
  // To be called by the sessions' observer, in OnSessionClosed.
  void OnClosed(Session& session);
  size_t size() const;
  // What they do and those did that have ended. Looks at each that is open.
  ServerStatistics statistics() const;

  // Blocks until none is open; false: the deadline came first.
  bool WaitUntilEmpty(Deadline deadline);

  // --- For ServerShutdown. What they do to several sessions they do in the order of Add: a
  // --- simulation is repeated with the same order.

  // Each refuses new calls, and tells its client so. Handlers whose clients are gone are cancelled,
  // also those that go on because the client might come back for the answer.
  void Drain();
  // Closes each; OnClosed follows. What they had in flight:
  struct CutOff {
    size_t calls = 0;
    size_t connections = 0;
    size_t unread = 0;  // of these, whose clients had not taken all that was sent to them
  };
  CutOff Close();

 private:
  struct Entry {
    std::shared_ptr<Session> session;
    uint64_t number;  // in the order of Add
  };
  std::vector<std::shared_ptr<Session>> InOrder() const;

  mutable Mutex mutex_;
  absl::flat_hash_map<Session*, Entry> sessions_ ABSL_GUARDED_BY(mutex_);
  uint64_t added_ ABSL_GUARDED_BY(mutex_) = 0;
  // What sessions did that are gone, and all connections.
  ServerStatistics of_closed_ ABSL_GUARDED_BY(mutex_);
  // Sessions that are gone, with handlers whose callers may come back (AnswerSide::OnClosed).
  std::vector<std::weak_ptr<Session>> left_behind_ ABSL_GUARDED_BY(mutex_);
  size_t look_behind_at_ ABSL_GUARDED_BY(mutex_) = 16;  // when it has so many, it is looked through
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar last_closed_;
};

}  // namespace mi7
