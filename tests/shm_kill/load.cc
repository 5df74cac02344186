#include "tests/shm_kill/load.h"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "rpc/call_outcome.h"
#include "tests/shm_kill/shared.h"

namespace mi7::shm_kill {

using conformance::EchoResult;
using conformance::Probe;
using conformance::ProbeStub;

namespace {

// In the ring, in a slot of either class, in several slots.
constexpr uint32_t kSizes[] = {0, 8, 40, 100, 160, 300, 3'000, 4'000, 12'000, 40'000, 90'000};
constexpr uint32_t kCallbacksMax = 6;  // at a time

transport::LocalOptions Local() {
  transport::LocalOptions local;
  local.shm.slot_classes = {{4096, 16}, {16384, 16}};
  return local;
}

uint8_t ByteAt(uint32_t call, uint32_t i) { return static_cast<uint8_t>(call * 31 + i / 8); }

Request<Probe::EchoParams, Probe::EchoResults> NewCall(const std::shared_ptr<Channel>& channel,
                                                       uint32_t call, uint32_t bytes,
                                                       const CallOptions& options) {
  auto request = ProbeStub(channel).Echo(options);
  request->setText(std::to_string(call));
  auto data = request->initData(bytes);
  for (uint32_t i = 0; i < bytes; ++i) data[i] = ByteAt(call, i);
  return request;
}

}  // namespace

ChannelOptions ClientOptions() {
  ChannelOptions options;
  options.local = Local();
  options.backoff.initial = absl::Milliseconds(1);
  options.backoff.max = absl::Milliseconds(4);
  return options;
}

ServerOptions TheServerOptions() {
  ServerOptions options;
  options.local = Local();
  options.event_loops = 1;
  return options;
}

Reply LedgerService::Echo(ServerContext& context, Probe::EchoParams::Reader params,
                          Probe::EchoResults::Builder results) {
  uint32_t call = kCallsMax;
  const auto text = params.getText();
  if (!absl::SimpleAtoi(absl::string_view(text.cStr(), text.size()), &call) || call >= kCallsMax) {
    return absl::InvalidArgumentError("not the number of a call");
  }
  SharedState().ledger.calls[call].runs.fetch_add(1);
  return conformance::Echo(context, params, results);
}

void Record(uint32_t call, const EchoResult& result) {
  CallRecord& record = SharedState().ledger.calls[call];
  Fate fate = Fate::kWrong;
  if (result.ok()) {
    const auto data = result->getData();
    bool whole = std::to_string(call) == result->getText().cStr();
    for (uint32_t i = 0; i < data.size(); ++i) whole &= data[i] == ByteAt(call, i);
    if (whole) fate = Fate::kOk;
  } else if (result.status().code() == absl::StatusCode::kUnavailable) {
    switch (OutcomeOf(result.status())) {
      case CallOutcome::kNotSent:
      case CallOutcome::kRefused:
        fate = Fate::kNotRun;
        break;
      case CallOutcome::kUnknown:
        fate = Fate::kMayHaveRun;
        break;
      case CallOutcome::kAnswered:
        break;
    }
  } else if (result.status().code() == absl::StatusCode::kResourceExhausted &&
             OutcomeOf(result.status()) == CallOutcome::kNotSent) {
    fate = Fate::kNotRun;
  }
  if (fate == Fate::kWrong) {
    std::strncpy(SharedState().board.text.data(), result.status().ToString().c_str(),
                 SharedState().board.text.size() - 1);
  }
  record.fate.store(fate);
  record.answers.fetch_add(1);
}

void MakeCalls(const std::shared_ptr<Channel>& channel, uint64_t seed, std::atomic<bool>& stop,
               std::atomic<bool>& first_ok) {
  Ledger& ledger = SharedState().ledger;
  const CallOptions patient{.deadline = Deadline::After(absl::Seconds(20)), .wait_for_ready = true};
  // Its server may be killed, too.
  while (!first_ok.load() && !stop.load() && !patient.deadline.passed()) {
    const uint32_t first = ledger.Begin();
    if (first == kCallsMax) break;
    Record(first, NewCall(channel, first, 40, patient).Send().Wait());
    if (ledger.calls[first].fate.load() == Fate::kOk) first_ok.store(true);
  }
  // What runs when it fails takes a moment: as long as nothing answers, little is asked.
  std::atomic<uint32_t> open{0};
  std::thread callbacks([&] {
    std::minstd_rand random(static_cast<uint32_t>(seed * 2 + 1));
    while (!stop.load()) {
      if (open.load() >= kCallbacksMax) {
        ::sched_yield();
        continue;
      }
      const uint32_t call = ledger.Begin();
      if (call == kCallsMax) break;
      open.fetch_add(1);
      NewCall(channel, call, kSizes[random() % std::size(kSizes)], {})
          .Send()
          .Then([call, &open](const EchoResult& result) {
            Record(call, result);
            open.fetch_sub(1);
          });
    }
  });
  std::minstd_rand random(static_cast<uint32_t>(seed * 2 + 2));
  while (!stop.load()) {
    const uint32_t call = ledger.Begin();
    if (call == kCallsMax) break;
    Record(call, NewCall(channel, call, kSizes[random() % std::size(kSizes)], {}).Send().Wait());
  }
  callbacks.join();
  Happens([&] { return open.load() == 0; });
}

}  // namespace mi7::shm_kill
