#include "tests/sim/sim_server.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "rpc/interceptor.h"
#include "rpc/retry_info.h"
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

SimImpl::Begun SimImpl::Begin(const ServerContext& context) {
  uint64_t call = 0;
  MI7_CHECK(absl::SimpleAtoi(context.metadata().Get("call").value_or(""), &call),
            "calls of the simulation have a number");
  if (context.deadline().passed()) ledger_.Wrong(call, "ran, and its deadline had passed before");
  ledger_.OnItsWay(world_.on_its_way_max());
  const uint64_t run = ledger_.Ran(call, life_, context.attempt());
  world_.Note(call);
  return {.call = call, .run = run};
}

Reply SimImpl::Do(ServerContext& context, Done::Builder results, bool may_do_nothing) {
  const uint64_t run = Begin(context).run;
  results.setRun(run);
  if (world_.Chance(50)) return DrawAnswer(run, may_do_nothing);
  world_.After(world_.DrawTime(absl::Milliseconds(100)),
               [this, run, may_do_nothing, &context, later = context.Defer(),
                alive = Alive(ledger_)]() mutable {
                 ledger_.OnItsWay(world_.on_its_way_max());
                 if (!world_.silenced()) ledger_.StillRuns(run, context.cancelled());
                 later.Finish(DrawAnswer(run, may_do_nothing));
               });
  return Reply::Later();
}

absl::Status SimImpl::DrawAnswer(uint64_t run, bool may_do_nothing) {
  switch (world_.Draw(8)) {
    case 0:
      return Ledger::ByRun(absl::AbortedError("as was drawn"), run);
    case 1:
      if (may_do_nothing) ledger_.Undone(run);
      return Ledger::ByRun(absl::UnavailableError("as was drawn, by the handler"), run);
    case 2:
      // Whatever the method.
      ledger_.Undone(run);
      return WithRetryAfter(Ledger::ByRun(absl::ResourceExhaustedError("as was drawn"), run),
                            world_.DrawTime(absl::Milliseconds(50)));
    default:
      return absl::OkStatus();
  }
}

Reply SimImpl::Numbers(ServerContext& context, Sim::NumbersParams::Reader params,
                       StreamWriter<Number> writer) {
  const Alive alive(ledger_);
  Begin(context);
  const uint64_t count = params.getCount();
  for (uint64_t number = 0; number < count; ++number) {
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
    StreamDraft<Number> draft = writer.NewMessage();
    draft->setNumber(number);
    draft->initData(static_cast<unsigned>(world_.Draw(200)));
    absl::Status sent = co_await writer.Write(std::move(draft));
    if (!sent.ok()) co_return sent;
  }
  if (world_.Chance(20)) co_return absl::AbortedError("as was drawn");
  co_return absl::OkStatus();
}

Reply SimImpl::Gather(ServerContext& context, StreamReader<Number> reader,
                      Sim::GatherResults::Builder results) {
  const Alive alive(ledger_);
  const uint64_t call = Begin(context).call;
  uint64_t count = 0;
  const bool leaves = world_.Chance(10);  // before all has come
  for (;;) {
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
    auto message = co_await reader.Read();
    if (!message.ok()) co_return message.status();
    if (!*message) break;
    if ((*message)->getNumber() != count) ledger_.Wrong(call, "the server got another message");
    ++count;
    if (leaves && count == 3) co_return absl::AbortedError("as was drawn");
  }
  results.setCount(count);
  co_return absl::OkStatus();
}

Reply SimImpl::Chat(ServerContext& context, StreamReader<Number> reader,
                    StreamWriter<Number> writer) {
  const Alive alive(ledger_);
  const uint64_t call = Begin(context).call;
  for (uint64_t count = 0;; ++count) {
    auto message = co_await reader.Read();
    if (!message.ok()) co_return message.status();
    if (!*message) co_return absl::OkStatus();
    if ((*message)->getNumber() != count) ledger_.Wrong(call, "the server got another message");
    StreamDraft<Number> draft = writer.NewMessage();
    draft->setNumber(count);
    draft->setData((*message)->getData());
    absl::Status sent = co_await writer.Write(std::move(draft));
    if (!sent.ok()) co_return sent;
  }
}

Limits SimServer::SmallLimits() {
  Limits limits;
  limits.calls_in_flight_max = 8;
  limits.stream_window_bytes = 600;
  limits.stream_queued_bytes_max = 2000;
  limits.queued_bytes_max = 20'000;
  return limits;
}

SimServer::SimServer(World& world, Ledger& ledger, uint64_t number, const SimServerOptions& options)
    : world_(world),
      life_{.number = number,
            .began_ns = MonotonicNanos(),
            .knows_ns = absl::ToInt64Nanoseconds(
                std::min(options.deduplication.late_max, options.deduplication.age_max))},
      service_(world, ledger, life_),
      loop_(world.NewLoop()) {
  MI7_CHECK(dispatcher_->Add(&service_).ok(), "it is the only one");
  config_ = std::make_shared<SessionConfig>();
  config_->limits = SmallLimits();
  config_->dispatcher = dispatcher_.get();
  config_->dispatcher_owner = dispatcher_;
  config_->timers = Timers::Create(loop_);
  config_->saved_answers = std::make_shared<SavedAnswers>(options.deduplication, life_.began_ns);
  if (options.has_slow_interceptor) {
    config_->interceptors.push_back(std::make_shared<SlowInterceptor>(world));
  }
}

void SimServer::Start(absl::string_view endpoint) {
  transport::TransportOptions options;
  options.limits = config_->limits;
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
  if (!decorated.ok()) return connection->Close(decorated.status());
  auto session = std::make_shared<Session>(*decorated, weak_from_this(), config_);
  sessions_.push_back(session);
  (*decorated)->Start(std::move(session));
}

void SimServer::StopListening() {
  if (listener_ == nullptr) return;
  // Close waits for connections that are being accepted: on this thread they have to be before.
  World::Settle(*loop_);
  listener_->Close();
  listener_ = nullptr;
}

void SimServer::Drain() {
  StopListening();
  for (const std::shared_ptr<Session>& session : std::vector(sessions_)) session->Drain();
  life_.drained = true;
}

void SimServer::Kill() {
  StopListening();
  for (const std::shared_ptr<Session>& session : std::vector(sessions_)) {
    session->connection().Close(absl::UnavailableError("the server is gone"));
  }
}

void SimServer::OnSessionClosed(Session& session, const absl::Status&) {
  statistics_ += session.answers().statistics();
  std::erase_if(sessions_, [&session](const auto& other) { return other.get() == &session; });
}

}  // namespace mi7::sim
