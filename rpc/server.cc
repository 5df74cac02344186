#include "rpc/server.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "base/deadline.h"
#include "base/fork_guard.h"
#include "base/log.h"
#include "base/mutex.h"
#include "rpc/liveness_watch.h"
#include "rpc/server_sessions.h"
#include "rpc/server_shutdown.h"
#include "transport/instance_id.h"

namespace mi7 {

namespace {

// Logs peers that were refused: a second apart at least, so that a flood of them floods no log.
class RefusalLog {
 public:
  void Add(const std::string& peer, const absl::Status& why) {
    constexpr int64_t kIntervalNs = 1'000'000'000;
    uint64_t unlogged;
    {
      MutexLock lock(&mutex_);
      const int64_t now_ns = MonotonicNanos();
      if (now_ns < next_ns_) {
        ++unlogged_;
        return;
      }
      next_ns_ = now_ns + kIntervalNs;
      unlogged = std::exchange(unlogged_, 0);
    }
    Log(LogLevel::kWarning,
        absl::StrCat("refused ", peer, ": ", why.message(),
                     unlogged != 0 ? absl::StrCat(" (and ", unlogged, " more before)") : ""));
  }

 private:
  Mutex mutex_;
  int64_t next_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t unlogged_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

// Sessions refer to it weakly: what is left of a session after the server is gone tells nobody.
class Server::Core final : public Session::Observer, public std::enable_shared_from_this<Core> {
 public:
  explicit Core(const ServerOptions& options) : options_(options) {}

  absl::Status Init(const std::vector<Service*>& services,
                    std::vector<std::unique_ptr<Service>> owned,
                    const std::vector<std::string>& endpoints);
  std::vector<std::string> endpoints() const;
  absl::Status Shutdown(Deadline deadline);
  // Whether this process was forked from the one that serves.
  bool forked() const { return ForkGuard::generation() != made_in_; }
  size_t connection_count() const { return forked() ? 0 : sessions_.size(); }

  LoadFigures load() const {
    return config_ != nullptr && config_->load != nullptr ? config_->load->figures()
                                                          : LoadFigures();
  }

  ServerStatistics statistics() const {
    return forked() ? ServerStatistics() : sessions_.statistics();
  }

  // --- Session::Observer ---
  void OnGoAway(Session&) override {}  // servers make no calls
  void OnSessionClosed(Session& session, const absl::Status&) override {
    sessions_.OnClosed(session);
  }
  // The client closes when it has its answers, see Session::CloseIfGoneAway. Were we to close
  // first, the system could discard answers that the client has not read yet.
  void OnDrained(Session&) override {}

 private:
  // What sessions may need when the core is gone.
  struct Services {
    Dispatcher dispatcher;
    std::vector<std::unique_ptr<Service>> owned;
    std::atomic<int64_t> ends_at_ns{Deadline().at_ns()};
  };

  absl::Status LimitLoad(const Dispatcher& dispatcher);
  void OnAccept(std::shared_ptr<transport::Connection> connection);

  const ServerOptions options_;
  const uint32_t made_in_ = ForkGuard::generation();
  std::shared_ptr<SessionConfig> config_;
  std::atomic<int64_t>* ends_at_ns_ = nullptr;  // config_'s
  // Destroyed last: connections and listeners live on them.
  std::vector<std::unique_ptr<transport::EventLoop>> loops_;
  Mutex shutdown_mutex_;  // held by a whole Shutdown
  bool shut_down_ ABSL_GUARDED_BY(shutdown_mutex_) = false;
  std::vector<std::unique_ptr<transport::Listener>> listeners_;
  ServerSessions sessions_;
};

absl::Status Server::Core::Init(const std::vector<Service*>& services,
                                std::vector<std::unique_ptr<Service>> owned,
                                const std::vector<std::string>& endpoints) {
  if (absl::Status sound = CheckLimits(options_.limits); !sound.ok()) return sound;
  if (absl::Status sound = CheckKeepalive(options_.keepalive, options_.idle_timeout); !sound.ok()) {
    return sound;
  }
  if (absl::Status sound = transport::CheckLocalOptions(options_.local); !sound.ok()) return sound;
  auto shared = std::make_shared<Services>();
  shared->owned = std::move(owned);
  for (Service* service : services) {
    if (absl::Status added = shared->dispatcher.Add(service); !added.ok()) return added;
  }
  if (services.empty()) return absl::InvalidArgumentError("a server needs at least one service");
  if (endpoints.empty()) return absl::InvalidArgumentError("a server needs at least one endpoint");
  config_ = std::make_shared<SessionConfig>();
  config_->limits = options_.limits;
  config_->dispatcher = &shared->dispatcher;
  config_->dispatcher_owner = shared;
  config_->ends_at_ns = ends_at_ns_ = &shared->ends_at_ns;
  config_->interceptors = options_.interceptors;
  if (absl::Status limited = LimitLoad(shared->dispatcher); !limited.ok()) return limited;
  config_->saved_answers = std::make_shared<SavedAnswers>(options_.deduplication, MonotonicNanos());

  const int loop_count =
      options_.event_loops > 0
          ? options_.event_loops
          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / 2);
  std::vector<transport::EventLoop*> loops;
  for (int i = 0; i < loop_count; ++i) {
    absl::StatusOr<std::unique_ptr<transport::EventLoop>> loop = transport::EventLoop::Create(
        {.name = absl::StrCat("mi7-server-", i), .wait = options_.wait});
    if (!loop.ok()) return loop.status();
    loops.push_back(loop->get());
    loops_.push_back(*std::move(loop));
  }
  config_->timers = Timers::Create(loops[0]);
  config_->liveness = LivenessWatch::Create(loops[0], options_.keepalive, options_.idle_timeout);
  transport::TransportOptions transport_options;
  transport_options.limits = options_.limits;
  transport_options.wait = options_.wait;
  transport_options.take_over = options_.take_over;
  transport_options.instance_id = transport::InstanceId::Random();
  transport_options.local = transport::ShareLocalOptions(options_.local);
  transport_options.on_refused = [log = std::make_shared<RefusalLog>()](const std::string& peer,
                                                                        const absl::Status& why) {
    log->Add(peer, why);
  };
  for (const std::string& text : endpoints) {
    absl::StatusOr<transport::Endpoint> endpoint = transport::Endpoint::Parse(text);
    if (!endpoint.ok()) return endpoint.status();
    absl::StatusOr<std::unique_ptr<transport::Listener>> listener = transport::Listen(
        *endpoint, loops, transport_options,
        [weak = weak_from_this()](std::shared_ptr<transport::Connection> connection) {
          if (std::shared_ptr<Core> self = weak.lock())
            return self->OnAccept(std::move(connection));
          connection->Close(absl::UnavailableError("server is shutting down"));
        });
    if (!listener.ok()) return listener.status();
    Log(LogLevel::kInfo, absl::StrCat("listening on ", (*listener)->Describe()));
    listeners_.push_back(*std::move(listener));
  }
  return absl::OkStatus();
}

absl::Status Server::Core::LimitLoad(const Dispatcher& dispatcher) {
  if (absl::Status sound = CheckLoadLimits(options_.load); !sound.ok()) return sound;
  if (!options_.load.any()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<LoadControl>> load = LoadControl::Create(
      options_.load,
      [&dispatcher](absl::string_view name) { return dispatcher.FindMethodByName(name); });
  if (!load.ok()) return load.status();
  config_->load = *std::move(load);
  return absl::OkStatus();
}

void Server::Core::OnAccept(std::shared_ptr<transport::Connection> connection) {
  if (options_.decorator != nullptr) [[unlikely]] {
    auto decorated = options_.decorator->Decorate(connection, loops_[0].get());
    if (!decorated.ok()) return connection->Close(decorated.status());
    connection = *std::move(decorated);
  }
  auto session = std::make_shared<Session>(connection, weak_from_this(), config_);
  sessions_.Add(session);
  // From the start: it may never make a call.
  if (options_.idle_timeout != absl::InfiniteDuration()) session->NoteCall();
  connection->Start(std::move(session));
}

std::vector<std::string> Server::Core::endpoints() const {
  std::vector<std::string> endpoints;
  for (const auto& listener : listeners_) endpoints.push_back(listener->endpoint().ToString());
  return endpoints;
}

absl::Status Server::Core::Shutdown(Deadline deadline) {
  if (forked()) return ForkGuard::Refusal("server");
  MutexLock shutdown_lock(&shutdown_mutex_);
  if (shut_down_) return absl::OkStatus();
  shut_down_ = true;
  // First of all: a handler that answers inline keeps its loop, and with it all that follows.
  if (ends_at_ns_ != nullptr) ends_at_ns_->store(deadline.at_ns(), std::memory_order_relaxed);
  for (auto& listener : listeners_) listener->Close();
  ServerShutdown shutdown(sessions_, deadline);
  while (const std::optional<Deadline> until = shutdown.Step()) sessions_.WaitUntilEmpty(*until);
  // A deferred handler may still keep its session, and with it the connection: without its loop it
  // is closed already and does nothing. What it waits for has ended with the connection.
  if (config_ && config_->timers) config_->timers->Close();
  if (config_ && config_->liveness) config_->liveness->Close();
  loops_.clear();
  return shutdown.result();
}

Server::Server(std::shared_ptr<Core> core) : core_(std::move(core)) {}

Server::~Server() {
  Shutdown(Deadline::AtNanos(0)).IgnoreError();
  // What it consists of would wait for threads that are the parent's: it stays.
  if (core_->forked()) static_cast<void>(new std::shared_ptr<Core>(core_));
}

std::vector<std::string> Server::endpoints() const { return core_->endpoints(); }

absl::Status Server::Shutdown(Deadline deadline) { return core_->Shutdown(deadline); }

LoadFigures Server::load() const { return core_->load(); }

size_t Server::connection_count() const { return core_->connection_count(); }

ServerStatistics Server::statistics() const { return core_->statistics(); }

ServerBuilder& ServerBuilder::SetOptions(const ServerOptions& options) {
  options_ = options;
  return *this;
}

ServerBuilder& ServerBuilder::AddService(Service* service) {
  services_.push_back(service);
  return *this;
}

ServerBuilder& ServerBuilder::AddService(std::unique_ptr<Service> service) {
  services_.push_back(service.get());
  owned_services_.push_back(std::move(service));
  return *this;
}

ServerBuilder& ServerBuilder::Listen(absl::string_view endpoint) {
  endpoints_.emplace_back(endpoint);
  return *this;
}

absl::StatusOr<std::unique_ptr<Server>> ServerBuilder::Start() {
  auto core = std::make_shared<Server::Core>(options_);
  std::unique_ptr<Server> server(new Server(core));
  if (absl::Status ready = core->Init(services_, std::move(owned_services_), endpoints_);
      !ready.ok()) {
    return ready;
  }
  return server;
}

}  // namespace mi7
