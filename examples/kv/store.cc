#include "examples/kv/store.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "rpc/retry_info.h"

namespace kv {
namespace {

// Of a page's keys and values, so that it fits into a message.
constexpr size_t kPageBytes = 4 << 20;

absl::string_view View(capnp::Text::Reader text) { return {text.cStr(), text.size()}; }
std::string ToString(capnp::Data::Reader data) {
  return {reinterpret_cast<const char*>(data.begin()), data.size()};
}
capnp::Data::Reader ToData(absl::string_view bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}
capnp::Text::Reader ToText(const std::string& text) { return {text.c_str(), text.size()}; }

absl::Status CheckKey(absl::string_view method, absl::string_view key) {
  if (!key.empty() && key.size() <= KEY_BYTES_MAX) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(method, ": a key has 1 to ", KEY_BYTES_MAX, " bytes; this has ", key.size()));
}

std::optional<uint64_t> Expected(Condition::Reader condition) {
  return condition.isRevision() ? std::optional<uint64_t>(condition.getRevision()) : std::nullopt;
}

absl::Status Prefixed(absl::string_view method, const absl::Status& status) {
  return status.ok() ? status
                     : absl::Status(status.code(), absl::StrCat(method, ": ", status.message()));
}

absl::Status Stopping() { return absl::UnavailableError("watch: the server stops"); }

}  // namespace

StoreImpl::StoreImpl(std::unique_ptr<Database> database)
    : StoreImpl(std::move(database), mi7::channels::Unbounded<Job>()) {}

StoreImpl::StoreImpl(std::unique_ptr<Database> database, mi7::channels::Ends<Job> jobs)
    : database_(std::move(database)),
      jobs_(std::move(jobs.sender)),
      todo_(std::move(jobs.receiver)),
      thread_([this] { Work(); }) {}

StoreImpl::~StoreImpl() {
  Stop();
  jobs_.Close();
  thread_.join();
}

void StoreImpl::Stop() {
  // Refused only when the thread has ended.
  jobs_
      .TrySend([this] {
        stopping_ = true;
        while (!watchers_.empty()) End(watchers_.front(), Stopping());
      })
      .IgnoreError();
}

void StoreImpl::Work() {
  // Until they are closed, and nothing is left to do.
  for (;;) {
    absl::StatusOr<Job> job = todo_.Receive();
    if (!job.ok()) return;
    (*job)();
  }
}

mi7::Reply StoreImpl::OnThread(mi7::ServerContext& context,
                               absl::AnyInvocable<absl::Status()> answer) {
  if (todo_.size() >= kJobsMax) {
    // The caller's channel does so by itself, when it may.
    return mi7::WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(kJobsMax, " calls wait for the disk")),
        kRetryAfter);
  }
  // The context and the results stay valid until the call is answered.
  Job job = [&context, call = context.Defer(), answer = std::move(answer)]() mutable {
    const bool in_vain = context.deadline().passed() || context.cancelled();
    call.Finish(in_vain ? absl::CancelledError("the caller has given up") : answer());
  };
  // Never full, and closed only when the server is gone. A call that is dropped is answered.
  jobs_.TrySend(std::move(job)).IgnoreError();
  return mi7::Reply::Later();
}

mi7::Reply StoreImpl::Get(mi7::ServerContext& context, Store::GetParams::Reader params,
                          Store::GetResults::Builder results) {
  // Parameters are read here, where mi7 answers for a malformed message.
  std::string key(View(params.getKey()));
  if (absl::Status sound = CheckKey("get", key); !sound.ok()) return sound;
  return OnThread(context, [this, key = std::move(key), results]() mutable -> absl::Status {
    absl::StatusOr<Row> row = database_->Get(key);
    if (!row.ok()) return Prefixed("get", row.status());
    results.setValue(ToData(*row->value));
    results.setRevision(row->revision);
    return absl::OkStatus();
  });
}

mi7::Reply StoreImpl::Put(mi7::ServerContext& context, Store::PutParams::Reader params,
                          Store::PutResults::Builder results) {
  std::string key(View(params.getKey()));
  if (absl::Status sound = CheckKey("put", key); !sound.ok()) return sound;
  if (params.getValue().size() > VALUE_BYTES_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("put: a value of ", params.getValue().size(),
                                                   " bytes; at most ", VALUE_BYTES_MAX));
  }
  return OnThread(context,
                  [this, key = std::move(key), value = ToString(params.getValue()),
                   expected = Expected(params.getCondition()), results]() mutable -> absl::Status {
                    absl::StatusOr<uint64_t> revision = database_->Put(key, value, expected);
                    if (!revision.ok()) return Prefixed("put", revision.status());
                    results.setRevision(*revision);
                    TellAll();
                    return absl::OkStatus();
                  });
}

mi7::Reply StoreImpl::Remove(mi7::ServerContext& context, Store::RemoveParams::Reader params,
                             Store::RemoveResults::Builder results) {
  std::string key(View(params.getKey()));
  if (absl::Status sound = CheckKey("remove", key); !sound.ok()) return sound;
  return OnThread(context,
                  [this, key = std::move(key), expected = Expected(params.getCondition()),
                   results]() mutable -> absl::Status {
                    absl::StatusOr<uint64_t> revision = database_->Remove(key, expected);
                    if (!revision.ok()) return Prefixed("remove", revision.status());
                    results.setRevision(*revision);
                    TellAll();
                    return absl::OkStatus();
                  });
}

mi7::Reply StoreImpl::List(mi7::ServerContext& context, Store::ListParams::Reader params,
                           Store::ListResults::Builder results) {
  const uint32_t limit = params.getLimit();
  const size_t count = limit == 0 ? ENTRIES_MAX : std::min<uint32_t>(limit, ENTRIES_MAX);
  return OnThread(
      context,
      [this, prefix = std::string(View(params.getPrefix())),
       after = std::string(View(params.getAfter())), count, results]() mutable -> absl::Status {
        absl::StatusOr<std::vector<Row>> rows = database_->List(prefix, after, count, kPageBytes);
        if (!rows.ok()) return Prefixed("list", rows.status());
        auto entries = results.initEntries(static_cast<unsigned>(rows->size()));
        for (unsigned i = 0; i < rows->size(); ++i) {
          entries[i].setKey(ToText((*rows)[i].key));
          entries[i].setValue(ToData(*(*rows)[i].value));
          entries[i].setRevision((*rows)[i].revision);
        }
        if (!rows->empty()) {
          absl::StatusOr<std::vector<Row>> next =
              database_->List(prefix, rows->back().key, 1, kPageBytes);
          if (!next.ok()) return Prefixed("list", next.status());
          results.setMore(!next->empty());
        }
        return absl::OkStatus();
      });
}

mi7::Reply StoreImpl::Watch(mi7::ServerContext& context, Store::WatchParams::Reader params,
                            mi7::StreamWriter<Change> writer) {
  // In place: one that has a stop_callback is not moved.
  const std::shared_ptr<Watcher> watcher(
      new Watcher{.cancelled = context.stop_token(),
                  .call = context.Defer(),
                  .writer = std::move(writer),
                  .prefix = std::string(View(params.getPrefix())),
                  .after = params.getAfter()});
  Job job = [this, watcher] {
    if (stopping_) return watcher->call.Finish(Stopping());
    if (watchers_.size() >= kWatchersMax) {
      return watcher->call.Finish(absl::ResourceExhaustedError(
          absl::StrCat("watch: ", kWatchersMax, " watch already; try again when one has ended")));
    }
    watchers_.push_back(watcher);
    // Called by a thread of the server's, or at once, and must not wait.
    watcher->on_cancel.emplace(watcher->cancelled,
                               [this, jobs = jobs_, weak = std::weak_ptr<Watcher>(watcher)] {
                                 jobs.TrySend([this, weak] {
                                       const std::shared_ptr<Watcher> gone = weak.lock();
                                       if (gone != nullptr)
                                         End(gone, absl::CancelledError("watch: the caller left"));
                                     })
                                     .IgnoreError();
                               });
    Tell(watcher);
  };
  jobs_.TrySend(std::move(job)).IgnoreError();
  return mi7::Reply::Later();
}

void StoreImpl::TellAll() {
  // Tell may remove the one that it is given.
  for (auto next = watchers_.begin(); next != watchers_.end();) {
    const std::shared_ptr<Watcher> watcher = *next++;
    Tell(watcher);
  }
}

void StoreImpl::Tell(const std::shared_ptr<Watcher>& watcher) {
  while (!watcher->writing && !watcher->ended) {
    absl::StatusOr<bool> wrote = WriteNext(watcher);
    if (!wrote.ok()) {
      return End(watcher, Prefixed("watch", wrote.status()));
    }
    if (!*wrote) return;
  }
}

// The next change, if there is one: true.
absl::StatusOr<bool> StoreImpl::WriteNext(const std::shared_ptr<Watcher>& watcher) {
  absl::StatusOr<std::optional<Row>> row = database_->NextChange(watcher->prefix, watcher->after);
  if (!row.ok()) return row.status();
  if (!row->has_value()) {
    watcher->after = database_->revision();  // nothing of it up to there
    return false;
  }
  const Row& change = **row;
  auto message = watcher->writer.NewMessage();
  message->setRevision(change.revision);
  message->setKey(ToText(change.key));
  if (change.value.has_value()) {
    message->setValue(ToData(*change.value));
  } else {
    message->setRemoved();
  }
  watcher->after = change.revision;
  watcher->writing = true;
  // Called back when the caller has read enough; it has what it needs, were we gone by then.
  watcher->writer.Write(std::move(message)).Then([this, jobs = jobs_, watcher](absl::Status sent) {
    Job job = [this, watcher, sent = std::move(sent)]() mutable {
      watcher->writing = false;
      if (sent.ok()) return Tell(watcher);
      End(watcher, std::move(sent));
    };
    jobs.TrySend(std::move(job)).IgnoreError();
  });
  return true;
}

// Once: what comes later finds it gone.
void StoreImpl::End(const std::shared_ptr<Watcher>& watcher, absl::Status status) {
  if (std::exchange(watcher->ended, true)) return;
  watcher->on_cancel.reset();
  watcher->call.Finish(std::move(status));
  watchers_.remove(std::shared_ptr<Watcher>(watcher));  // which may be the list's own
}

}  // namespace kv
