#include "rpc/server_sessions.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "transport/completion.h"

namespace mi7 {

void ServerSessions::Add(std::shared_ptr<Session> session) {
  MutexLock lock(&mutex_);
  Session* const key = session.get();
  sessions_.emplace(key, Entry{std::move(session), ++added_});
  ++of_closed_.connections_accepted;
}

void ServerSessions::OnClosed(Session& session) {
  bool nobody_comes_back;
  {
    MutexLock lock(&mutex_);
    // It gets no further calls.
    if (sessions_.erase(&session) != 0) of_closed_ += session.answers().statistics();
    if (sessions_.empty()) last_closed_.NotifyAll();
    nobody_comes_back = draining_;
    if (!nobody_comes_back && session.answers().in_flight() != 0) {
      // Seldom, so that many that close together do not look at each other.
      if (left_behind_.size() >= look_behind_at_) {
        std::erase_if(left_behind_, [](const auto& weak) { return weak.expired(); });
        look_behind_at_ = 2 * left_behind_.size() + 16;
      }
      left_behind_.push_back(session.weak_from_this());
    }
  }
  if (nobody_comes_back) session.answers().Abandon();
}

size_t ServerSessions::size() const {
  MutexLock lock(&mutex_);
  return sessions_.size();
}

ServerStatistics ServerSessions::statistics() const {
  MutexLock lock(&mutex_);
  ServerStatistics statistics = of_closed_;
  for (const auto& [key, entry] : sessions_) statistics += entry.session->answers().statistics();
  return statistics;
}

bool ServerSessions::WaitUntilEmpty(Deadline deadline) {
  const auto empty = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return sessions_.empty(); };
  transport::Completion::FlushCallbacks();
  MutexLock lock(&mutex_);
  return last_closed_.WaitUntil(mutex_, deadline, empty);
}

std::vector<std::shared_ptr<Session>> ServerSessions::InOrder() const {
  std::vector<Entry> entries;
  {
    MutexLock lock(&mutex_);
    entries.reserve(sessions_.size());
    for (const auto& [key, entry] : sessions_) entries.push_back(entry);
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.number < b.number; });
  std::vector<std::shared_ptr<Session>> sessions;
  sessions.reserve(entries.size());
  for (Entry& entry : entries) sessions.push_back(std::move(entry.session));
  return sessions;
}

void ServerSessions::Drain() {
  std::vector<std::weak_ptr<Session>> left_behind;
  {
    MutexLock lock(&mutex_);
    draining_ = true;
    left_behind.swap(left_behind_);
  }
  for (const auto& session : InOrder()) session->Drain();
  for (const auto& weak : left_behind) {
    if (const std::shared_ptr<Session> session = weak.lock()) session->answers().Abandon();
  }
}

ServerSessions::CutOff ServerSessions::Close() {
  CutOff cut_off;
  for (const auto& session : InOrder()) {
    ++cut_off.connections;
    cut_off.calls += session->unanswered_calls();
    if (session->has_unsent()) ++cut_off.unread;
    session->connection().Close(absl::UnavailableError("server is shutting down"));
  }
  return cut_off;
}

}  // namespace mi7
