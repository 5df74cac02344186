#include "tests/sim/sim_server.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "rpc/interceptor.h"
#include "rpc/server_shutdown.h"
#include "rpc/timers.h"

namespace mi7::sim {
namespace {

// One that now and then takes so long that deadlines pass meanwhile.
class SlowInterceptor final : public Interceptor {
 public:
  explicit SlowInterceptor(World& world) : world_(world) {}
  void OnStart(InterceptedCall&) override {
    if (world_.Chance(10)) world_.BeBusy(world_.DrawTime(absl::Milliseconds(300)));
  }

 private:
  World& world_;
};

}  // namespace

Limits SimServer::SmallLimits() {
  Limits limits;
  limits.calls_in_flight_max = 8;
  limits.stream_window_bytes = 600;
  limits.stream_queued_bytes_max = 2000;
  limits.queued_bytes_max = 20'000;
  return limits;
}

SimServer::SimServer(World& world, Ledger& ledger, FlowLedger& flows,
                     const SimServerOptions& options)
    : world_(world),
      ledger_(ledger),
      flows_(flows),
      life_(
          ledger.NewLife(std::min(options.deduplication.late_max, options.deduplication.age_max))),
      service_(world, ledger, life_, handlers_),
      loop_(world.NewLoop()) {
  life_.named = options.is_named;
  config_.limits = SmallLimits();
  config_.timers = Timers::Create(loop_);
  config_.saved_answers = std::make_shared<SavedAnswers>(options.deduplication, life_.began_ns);
  if (options.has_slow_interceptor) {
    config_.interceptors.push_back(std::make_shared<SlowInterceptor>(world));
  }
}

void SimServer::Start(absl::string_view endpoint) {
  transport::TransportOptions options;
  options.limits = config_.limits;
  if (life_.named) options.instance_id.bytes[0] = static_cast<std::byte>(1 + life_.number);
  auto listener = transport::Listen(
      *transport::Endpoint::Parse(endpoint), {loop_}, options,
      [weak = weak_from_this()](std::shared_ptr<transport::Connection> connection) {
        const auto self = weak.lock();
        if (self != nullptr) return self->OnAccept(std::move(connection));
        connection->Close(absl::UnavailableError("the server is gone"));
      });
  MI7_CHECK(listener.ok(), "nobody else listens on the name");
  listener_ = *std::move(listener);
}

void SimServer::OnAccept(std::shared_ptr<transport::Connection> connection) {
  absl::StatusOr<std::shared_ptr<transport::Connection>> decorated =
      world_.Decorate(connection, loop_);
  if (!decorated.ok()) {
    world_.NoteTrouble();  // its client may have called already
    return connection->Close(decorated.status());
  }
  // With a service of its own, which knows over which connection it is called.
  sinks_.push_back(std::make_unique<SinkImpl>(world_, ledger_, flows_, life_, handlers_));
  auto dispatcher = std::make_shared<Dispatcher>();
  MI7_CHECK(dispatcher->Add(&service_).ok() && dispatcher->Add(sinks_.back().get()).ok(),
            "they are the only ones");
  auto config = std::make_shared<SessionConfig>(config_);
  config->dispatcher = dispatcher.get();
  config->dispatcher_owner = std::move(dispatcher);
  auto session = std::make_shared<Session>(*decorated, weak_from_this(), std::move(config));
  sessions_.Add(session);
  (*decorated)->Start(std::move(session));
}

void SimServer::StopListening() {
  if (listener_ == nullptr) return;
  // Close waits for connections that are being accepted: on this thread they have to be before.
  World::Settle(*loop_);
  listener_->Close();
  listener_ = nullptr;
}

DetachedTask SimServer::Shutdown(Deadline deadline) {
  const std::shared_ptr<SimServer> self = shared_from_this();
  StopListening();
  life_.drained_ns = MonotonicNanos();
  life_.deadline_ns = deadline.at_ns();
  const absl::Duration busy_before = world_.busy();
  ServerShutdown shutdown(sessions_, deadline);
  while (const std::optional<Deadline> until = shutdown.Step()) {
    if (until->infinite()) {
      life_.cut_off_ns = MonotonicNanos();
      ledger_.OnItsWay(world_.on_its_way_max());
      ledger_.CutOff(life_, world_.troubled());
    }
    co_await UntilEmpty(*until);
  }
  life_.over_ns = MonotonicNanos();
  ledger_.ShutDown(life_, shutdown.result(), world_.busy() - busy_before);
  if (handlers_.AnyUntold()) {
    ledger_.Wrong(
        absl::StrCat("server ", life_.number, " has ended, and a handler of its does not know"));
  }
  // As Server::Shutdown does, of which handlers know nothing that still hold their calls.
  config_.timers->Close();
  world_.EndLoop(loop_);
}

void SimServer::WakeAfter(absl::Duration delay) {
  world_.After(delay, [self = shared_from_this(), wait = waited_] {
    if (self->waited_ != wait) return;  // it has been woken since
    ++self->waited_;
    std::exchange(self->waits_, nullptr).resume();
  });
}

void SimServer::Kill() {
  if (ended()) return;
  StopListening();
  life_.killed_ns = MonotonicNanos();
  sessions_.Close();
}

void SimServer::OnSessionClosed(Session& session, const absl::Status&) {
  sessions_.OnClosed(session);
  // Who waits is another thread.
  if (waits_ && empty()) WakeAfter(absl::ZeroDuration());
}

}  // namespace mi7::sim
