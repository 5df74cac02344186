#include "tests/sim/handlers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "rpc/retry_info.h"

namespace mi7::sim {

Handlers::Running::Running(Handlers& handlers, const ServerContext& context)
    : handlers_(&handlers), number_(++handlers.begun_) {
  handlers.running_.emplace(number_, &context);
  ++handlers.life_.running;
}

void Handlers::Running::End() {
  if (handlers_ == nullptr) return;
  handlers_->running_.erase(number_);
  --handlers_->life_.running;
  handlers_->life_.answered_last_ns = MonotonicNanos();
  handlers_ = nullptr;
}

bool Handlers::AnyUntold() const {
  return std::any_of(running_.begin(), running_.end(),
                     [](const auto& handler) { return !handler.second->cancelled(); });
}

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
  // Now and then longer than any shutdown waits.
  world_.After(world_.DrawTime(absl::Milliseconds(world_.Chance(10) ? 1000 : 100)),
               [this, run, may_do_nothing, &context, later = context.Defer(),
                running = Handlers::Running(handlers_, context), alive = Alive(ledger_)]() mutable {
                 ledger_.OnItsWay(world_.on_its_way_max());
                 if (!world_.silenced()) ledger_.StillRuns(run, context.cancelled());
                 running.End();
                 later.Finish(DrawAnswer(run, may_do_nothing));
               });
  return Reply::Later();
}

absl::Status SimImpl::DrawAnswer(uint64_t run, bool may_do_nothing) {
  switch (world_.Draw(8)) {
    case 0:
      return Answer(run, Ledger::ByRun(absl::AbortedError("as was drawn"), run));
    case 1:
      if (may_do_nothing) ledger_.Undone(run);
      return Answer(run,
                    Ledger::ByRun(absl::UnavailableError("as was drawn, by the handler"), run));
    case 2:
      // Whatever the method.
      ledger_.Undone(run);
      return WithRetryAfter(
          Answer(run, Ledger::ByRun(absl::ResourceExhaustedError("as was drawn"), run)),
          world_.DrawTime(absl::Milliseconds(50)));
    default:
      return Answer(run, absl::OkStatus());
  }
}

Reply SimImpl::Numbers(ServerContext& context, Sim::NumbersParams::Reader params,
                       StreamWriter<Number> writer) {
  const Alive alive(ledger_);
  const Handlers::Running running(handlers_, context);
  const auto [call, run] = Begin(context);
  const uint64_t count = params.getCount();
  for (uint64_t number = 0; number < count; ++number) {
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
    StreamDraft<Number> draft = writer.NewMessage();
    draft->setNumber(number);
    draft->initData(static_cast<unsigned>(world_.Draw(200)));
    absl::Status sent = co_await writer.Write(std::move(draft));
    if (!sent.ok()) co_return Answer(run, sent);
    Goes(call);
  }
  if (world_.Chance(20)) co_return Answer(run, absl::AbortedError("as was drawn"));
  co_return Answer(run, absl::OkStatus());
}

Reply SimImpl::Gather(ServerContext& context, StreamReader<Number> reader,
                      Sim::GatherResults::Builder results) {
  const Alive alive(ledger_);
  const Handlers::Running running(handlers_, context);
  const auto [call, run] = Begin(context);
  uint64_t count = 0;
  const bool leaves = world_.Chance(10);  // before all has come
  for (;;) {
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
    auto message = co_await reader.Read();
    if (!message.ok()) co_return Answer(run, message.status());
    Goes(call);
    if (!*message) break;
    if ((*message)->getNumber() != count) ledger_.Wrong(call, "the server got another message");
    ++count;
    if (leaves && count == 3) co_return Answer(run, absl::AbortedError("as was drawn"));
  }
  results.setCount(count);
  co_return Answer(run, absl::OkStatus());
}

Reply SimImpl::Chat(ServerContext& context, StreamReader<Number> reader,
                    StreamWriter<Number> writer) {
  const Alive alive(ledger_);
  const Handlers::Running running(handlers_, context);
  const auto [call, run] = Begin(context);
  for (uint64_t count = 0;; ++count) {
    auto message = co_await reader.Read();
    if (!message.ok()) co_return Answer(run, message.status());
    Goes(call);
    if (!*message) co_return Answer(run, absl::OkStatus());
    if ((*message)->getNumber() != count) ledger_.Wrong(call, "the server got another message");
    StreamDraft<Number> draft = writer.NewMessage();
    draft->setNumber(count);
    draft->setData((*message)->getData());
    absl::Status sent = co_await writer.Write(std::move(draft));
    if (!sent.ok()) co_return Answer(run, sent);
    Goes(call);
  }
}

Reply SinkImpl::Write(ServerContext& context, Number::Reader params) {
  const uint64_t call = params.getNumber();
  if (context.deadline().passed()) ledger_.Wrong(call, "ran, and its deadline had passed before");
  ledger_.OnItsWay(world_.on_its_way_max());
  flows_.Runs(call, params.getData().size(), context.attempt(), life_, connection_);
  world_.Note(call);
  if (world_.Chance(50)) return DrawAnswer(call);
  world_.After(world_.DrawTime(absl::Milliseconds(50)),
               [this, call, &context, later = context.Defer(),
                running = Handlers::Running(handlers_, context), alive = Alive(ledger_)]() mutable {
                 ledger_.OnItsWay(world_.on_its_way_max());
                 if (!world_.silenced()) flows_.StillRuns(call, context.cancelled());
                 running.End();
                 later.Finish(DrawAnswer(call));
               });
  return Reply::Later();
}

absl::Status SinkImpl::DrawAnswer(uint64_t call) {
  absl::Status answer;
  if (world_.Chance(4)) answer = Ledger::ByRun(absl::AbortedError("as was drawn"), call);
  flows_.Answers(call, answer);
  return answer;
}

}  // namespace mi7::sim
