#include "tests/sim/callers.h"

#include <coroutine>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/deadline.h"
#include "tests/sim/sim_server.h"

namespace mi7::sim {

Callers::Callers(World& world, Ledger& ledger, FlowLedger& flows, const std::string& endpoint,
                 bool calls_again)
    : world_(world),
      ledger_(ledger),
      flows_(flows),
      calls_again_(calls_again),
      loop_(world.NewLoop()) {
  ChannelOptions options;
  options.limits = SimServer::SmallLimits();
  options.backoff.jitter = 0;  // it is not drawn from the seed
  options.retry.policy.backoff.jitter = 0;
  options.event_loop = loop_;
  options.decorator = std::shared_ptr<World>(std::shared_ptr<World>(), &world);
  absl::StatusOr<std::shared_ptr<Channel>> channel = Channel::Create(endpoint, options);
  MI7_CHECK(channel.ok(), "the endpoint is sound");
  channel_ = *std::move(channel);
  stub_.emplace(channel_);
}

void Callers::Call() {
  if (world_.Chance(50)) return Begin();
  loop_->Post([this] { Begin(); });
}

void Callers::Begin() {
  if (!stub_.has_value()) return;
  if (world_.Chance(10)) return static_cast<void>(Pour());
  const uint64_t work = ledger_.NewWork();
  const uint64_t count = world_.Draw(20);
  uint64_t call = 0;
  switch (world_.Draw(8)) {
    case 0: {
      auto request = stub_->Numbers(Options({.work = work, .is_stream = true}, call));
      request->setCount(count);
      auto reader = request.Send();
      Watch(call, reader.canceller());
      Numbers(call, count, std::move(reader));
      return;
    }
    case 1: {
      auto stream = stub_->Gather(Options({.work = work, .is_stream = true}, call));
      Watch(call, stream.canceller());
      Gather(call, count, std::move(stream));
      return;
    }
    case 2: {
      auto chat =
          std::make_shared<Chatter>(stub_->Chat(Options({.work = work, .is_stream = true}, call)));
      Watch(call, chat->canceller());
      Say(count, chat);
      Hear(call, count, std::move(chat));
      return;
    }
    default:
      return Begin(DrawAsk(work));
  }
}

Callers::Ask Callers::DrawAsk(uint64_t work) {
  Ask ask = {.method = static_cast<Method>(world_.Draw(5)),
             .work = work,
             .amount = world_.Draw(100),
             // A large request is kept in another way.
             .bytes = world_.Chance(10) ? 5000 : static_cast<unsigned>(world_.Draw(200))};
  if (IsDeduplicated(ask.method) && calls_again_ && world_.Chance(70)) {
    std::string id = absl::StrCat(absl::Hex(world_.Draw(UINT64_MAX), absl::kZeroPad16));
    ask.id = RequestId::From(id);
  }
  return ask;
}

void Callers::Begin(const Ask& ask) {
  if (!stub_.has_value()) return;
  constexpr Promise kPromises[] = {Promise::kPlain, Promise::kRetryable, Promise::kIdempotent,
                                   Promise::kDeduplicated, Promise::kDeduplicated};
  Ledger::Plan plan = {.work = ask.work,
                       .promise = kPromises[static_cast<size_t>(ask.method)],
                       .amount = ask.amount};
  RetryPolicy retry;
  retry.backoff.jitter = 0;
  retry.attempts_max = plan.attempts_max = 1 + static_cast<int>(world_.Draw(5));
  if (world_.Chance(50)) retry.hedge_delay = world_.DrawTime(absl::Milliseconds(50));
  // For the sake of hedging.
  plan.says_idempotent = plan.promise == Promise::kDeduplicated && world_.Chance(50);
  uint64_t call = 0;
  CallOptions options = Options(plan, call);
  options.retry = std::make_shared<const RetryPolicy>(retry);
  options.request_id = ask.id;
  if (plan.says_idempotent) options.repeat = Repeat::kIdempotent;
  auto request = NewRequest(ask.method, options);
  request->setAmount(ask.amount);
  request->initData(ask.bytes);
  auto pending = request.Send();
  Watch(call, pending.canceller());
  pending.Then([this, call, ask](auto response) {
    if (response.ok()) ledger_.AnsweredBy(call, response->getRun());
    End(call, response.status());
    Ended(ask, response.status());
  });
}

Request<Task, Done> Callers::NewRequest(Method method, const CallOptions& options) const {
  switch (method) {
    case Method::kRun:
      return stub_->Run(options);
    case Method::kReserve:
      return stub_->Reserve(options);
    case Method::kLookUp:
      return stub_->LookUp(options);
    case Method::kWithdraw:
      return stub_->Withdraw(options);
    case Method::kOrder:
      break;
  }
  return stub_->Order(options);
}

void Callers::Ended(const Ask& ask, const absl::Status& status) {
  Ask again = ask;
  if (IsDeduplicated(ask.method)) {
    // Whatever came of it.
    if (!ask.id || !world_.Chance(40)) return;
    ledger_.MadeAgain(ask.work);
    if (world_.Chance(20)) ++again.amount;  // which makes it another call
  } else {
    // What certainly has not run may be made again, and runs once at most in all.
    const CallOutcome outcome = OutcomeOf(status);
    if (outcome != CallOutcome::kNotSent && outcome != CallOutcome::kRefused) return;
    if (!world_.Chance(50)) return;
  }
  world_.After(world_.DrawTime(absl::Milliseconds(100)), [this, again] { Begin(again); });
}

CallOptions Callers::Options(const Ledger::Plan& plan, uint64_t& call) {
  CallOptions options;
  if (world_.Chance(50)) options.deadline = Deadline::After(world_.DrawTime(absl::Seconds(1)));
  call = ledger_.Begin(plan, options.deadline);
  options.wait_for_ready = world_.Chance(50);
  auto metadata = std::make_shared<Metadata>();
  metadata->Add("call", absl::StrCat(call));
  options.metadata = std::move(metadata);
  return options;
}

void Callers::Watch(uint64_t call, CallCanceller canceller) {
  if (world_.Chance(20)) {
    world_.After(world_.DrawTime(absl::Milliseconds(200)), [this, call] {
      const auto found = cancellers_.find(call);
      if (found == cancellers_.end()) return;
      ledger_.GivenUp(call);
      CallCanceller(found->second).Cancel();
    });
  }
  if (!ledger_.HasEnded(call)) cancellers_.emplace(call, std::move(canceller));
}

void Callers::EndStream(absl::string_view kind, uint64_t call, const absl::Status& status) {
  ledger_.StreamEnded(kind, status);
  End(call, status);
}

void Callers::End(uint64_t call, const absl::Status& status) {
  world_.Note(call * 32 + static_cast<uint64_t>(status.code()));
  ledger_.Ended(call, status);
  cancellers_.erase(call);
}

DetachedTask Callers::Numbers(uint64_t call, uint64_t count, StreamReader<Number> reader) {
  const Alive alive(ledger_);
  const bool leaves = world_.Chance(10);
  for (uint64_t expected = 0;; ++expected) {
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
    auto message = co_await reader.Read();
    if (message.ok() && *message) {
      if ((*message)->getNumber() != expected) ledger_.Wrong(call, "got another message");
      if (!leaves || expected != 2) continue;
      // Dropping the reader cancels; nobody is told of the end.
      ledger_.GivenUp(call);
      EndStream("server", call, absl::CancelledError("left"));
      co_return;
    }
    if (message.ok() && expected != count) {
      ledger_.Wrong(call, absl::StrCat("ended in order after ", expected, " of ", count));
    }
    // Whoever asks again is told the same again.
    auto again = co_await reader.Read();
    if (again.status() != message.status() || (again.ok() && *again)) {
      ledger_.Wrong(call, "ended in two ways");
    }
    EndStream("server", call, message.status());
    co_return;
  }
}

DetachedTask Callers::Gather(uint64_t call, uint64_t count,
                             ClientStream<Number, Sim::GatherResults> stream) {
  const Alive alive(ledger_);
  for (uint64_t number = 0; number < count; ++number) {
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
    StreamDraft<Number> draft = stream.NewMessage();
    Fill(*draft, number);
    if (!(co_await stream.Write(std::move(draft))).ok()) break;  // the answer says why
  }
  auto response = co_await stream.Finish();
  if (response.ok() && response->getCount() != count) {
    ledger_.Wrong(call, absl::StrCat(response->getCount(), " of ", count, " came"));
  }
  EndStream("client", call, response.status());
}

DetachedTask Callers::Say(uint64_t count, std::shared_ptr<Chatter> chat) {
  const Alive alive(ledger_);
  for (uint64_t number = 0; number < count; ++number) {
    StreamDraft<Number> draft = chat->writer().NewMessage();
    Fill(*draft, number);
    if (!(co_await chat->writer().Write(std::move(draft))).ok()) co_return;
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
  }
  chat->writer().Close();
}

DetachedTask Callers::Hear(uint64_t call, uint64_t count, std::shared_ptr<Chatter> chat) {
  const Alive alive(ledger_);
  for (uint64_t expected = 0;; ++expected) {
    if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
    auto message = co_await chat->reader().Read();
    if (message.ok() && *message) {
      if ((*message)->getNumber() != expected) ledger_.Wrong(call, "heard another message");
      continue;
    }
    if (message.ok() && expected != count) {
      ledger_.Wrong(call, absl::StrCat("heard ", expected, " of ", count));
    }
    EndStream("bidirectional", call, message.status());
    co_return;
  }
}

namespace {

// co_await ByCallback(sending): as co_await of `sending`, by the callback.
struct ByCallback {
  FlowSending sending;
  absl::Status status = {};
  explicit ByCallback(FlowSending&& of) : sending(std::move(of)) {}
  bool await_ready() const { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) {
    sending.Then([this, coroutine](const absl::Status& told) {
      status = told;
      coroutine.resume();
    });
  }
  absl::Status await_resume() { return std::move(status); }
};

}  // namespace

DetachedTask Callers::Pour() {
  const Alive alive(ledger_);
  const SinkStub sink(channel_);  // whose calls are nobody else's
  const uint64_t flow = flows_.NewFlow();
  for (uint64_t rounds = 1 + world_.Draw(2); rounds > 0; --rounds) {
    const uint64_t round = flows_.Begin(flow);
    uint64_t after_failure = world_.Draw(3);  // so many are tried
    std::vector<uint64_t> calls;
    for (uint64_t count = world_.Draw(12); count > 0; --count) {
      if (world_.Chance(20)) co_await world_.Sleep(world_.DrawTime(absl::Milliseconds(20)));
      CallOptions options;
      if (world_.Chance(10)) {
        options.deadline = Deadline::After(world_.DrawTime(absl::Milliseconds(300)));
      }
      options.wait_for_ready = world_.Chance(50);
      const uint64_t bytes = world_.Draw(300);
      const uint64_t call = flows_.Sends(round, bytes, options.deadline);
      auto request = sink.Write(options);
      request->setNumber(call);
      request->initData(static_cast<unsigned>(bytes));
      FlowSending sending = request.Send();
      flow_cancellers_.emplace(call, sending.canceller());
      calls.push_back(call);
      if (world_.Chance(4)) {
        world_.After(world_.DrawTime(absl::Milliseconds(50)), [this, call] { EndPoured(call); });
      }
      absl::Status sent;
      if (world_.Chance(30)) {
        sent = co_await ByCallback(std::move(sending));
      } else {
        sent = co_await std::move(sending);
      }
      flows_.Sent(round, sent);
      if (!sent.ok() && after_failure-- == 0) break;
    }
    const absl::Status finished = co_await sink.FinishStream();
    world_.Note(round * 32 + static_cast<uint64_t>(finished.code()));
    flows_.Finished(round, finished);
    for (const uint64_t call : calls) flow_cancellers_.erase(call);
  }
}

void Callers::EndPoured(uint64_t call) {
  const auto found = flow_cancellers_.find(call);
  if (found == flow_cancellers_.end()) return;
  flows_.GivenUp(call);
  CallCanceller(found->second).Cancel();
}

void Callers::CancelAll() {
  // Each may end, and leave the map, inside its Cancel.
  for (const auto& [call, canceller] : std::map(cancellers_)) {
    ledger_.GivenUp(call);
    canceller.Cancel();
  }
  for (const auto& [call, canceller] : std::map(flow_cancellers_)) EndPoured(call);
}

void Callers::Close() {
  // Of those that were made again after all had ended.
  for (const auto& [call, canceller] : cancellers_) ledger_.LosesChannel(call);
  stub_.reset();
  channel_->Close();
  channel_.reset();
}

}  // namespace mi7::sim
