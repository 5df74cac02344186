#pragma once

// The service. One thread has the database, and answers all calls: a disk makes one wait, which the
// threads that serve connections must not. Calls are deferred to it; those that watch are kept on
// it, and go on by callbacks when their callers have read enough.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "channels/channel.h"
#include "examples/kv/database.h"
#include "examples/kv/kv.mi7.h"

namespace kv {

// Calls that wait for the disk, and those that watch.
inline constexpr size_t kJobsMax = 1000;
inline constexpr size_t kWatchersMax = 1000;
// What callers are told to wait when too many wait for the disk.
inline constexpr absl::Duration kRetryAfter = absl::Milliseconds(50);

// Must outlive the server that it is added to.
class StoreImpl final : public StoreService {
 public:
  explicit StoreImpl(std::unique_ptr<Database> database);
  // Stops, and waits for the thread.
  ~StoreImpl() override;

  // Ends the streams of those who watch with UNAVAILABLE, and refuses further ones. Before
  // Server::Shutdown, which would wait for them.
  void Stop();

  mi7::Reply Get(mi7::ServerContext& context, Store::GetParams::Reader params,
                 Store::GetResults::Builder results) override;
  mi7::Reply Put(mi7::ServerContext& context, Store::PutParams::Reader params,
                 Store::PutResults::Builder results) override;
  mi7::Reply Remove(mi7::ServerContext& context, Store::RemoveParams::Reader params,
                    Store::RemoveResults::Builder results) override;
  mi7::Reply List(mi7::ServerContext& context, Store::ListParams::Reader params,
                  Store::ListResults::Builder results) override;
  mi7::Reply Watch(mi7::ServerContext& context, Store::WatchParams::Reader params,
                   mi7::StreamWriter<Change> writer) override;

 private:
  using Job = absl::AnyInvocable<void()>;
  // One that watches.
  struct Watcher {
    std::stop_token cancelled;  // when the caller gives up
    mi7::DeferredCall call;
    mi7::StreamWriter<Change> writer;
    std::string prefix;
    uint64_t after;
    bool writing = false;
    bool ended = false;
    // Has the thread told.
    std::optional<std::stop_callback<std::function<void()>>> on_cancel = {};
  };

  // Defers a call of that method to the thread.
  mi7::Reply OnThread(mi7::ServerContext& context, absl::AnyInvocable<absl::Status()> answer);
  // The thread's.
  void Work();
  void Tell(const std::shared_ptr<Watcher>& watcher);
  void TellAll();
  void End(const std::shared_ptr<Watcher>& watcher, absl::Status status);
  absl::StatusOr<bool> WriteNext(const std::shared_ptr<Watcher>& watcher);

  const std::unique_ptr<Database> database_;
  const mi7::channels::Sender<Job> jobs_;
  const mi7::channels::Receiver<Job> todo_;
  // Those below are the thread's.
  bool stopping_ = false;
  std::list<std::shared_ptr<Watcher>> watchers_;
  std::thread thread_;  // last, because it uses all of the above

  StoreImpl(std::unique_ptr<Database> database, mi7::channels::Ends<Job> jobs);
};

}  // namespace kv
