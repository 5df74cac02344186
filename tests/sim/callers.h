#pragma once

// Callers: those who make calls through one channel of the simulation, in every way, and note how
// they end.

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/detached_task.h"
#include "rpc/channel.h"
#include "rpc/request_id.h"
#include "tests/sim/flow_ledger.h"
#include "tests/sim/ledger.h"
#include "tests/sim/sim.mi7.h"
#include "tests/sim/world.h"

namespace mi7::sim {

class Callers {
 public:
  // All of what is given outlives the end of the calls. `calls_again`: a deduplicated call may be
  // made once more when it is over, whatever came of it. Not where servers forget calls.
  Callers(World& world, Ledger& ledger, FlowLedger& flows, const std::string& endpoint,
          bool calls_again);
  // Makes a call that is drawn, now, on this thread or on the channel's loop.
  void Call();
  // Those that are not over.
  void CancelAll();
  // Ends the channel: calls that are not over fail.
  void Close();
  std::weak_ptr<Channel> channel() const { return channel_; }

 private:
  using Chatter = BidiStream<Number, Number>;
  enum class Method : uint8_t { kRun, kReserve, kLookUp, kWithdraw, kOrder };
  static bool IsDeduplicated(Method method) {
    return method == Method::kWithdraw || method == Method::kOrder;
  }
  // What is asked for by one call or several.
  struct Ask {
    Method method;
    uint64_t work;
    uint64_t amount;
    unsigned bytes;
    std::optional<RequestId> id = {};  // none: each call has its own
  };
  void Begin();
  void Begin(const Ask& ask);
  Ask DrawAsk(uint64_t work);
  Request<Task, Done> NewRequest(Method method, const CallOptions& options) const;
  void Ended(const Ask& ask, const absl::Status& status);
  // Those of each call; it begins.
  CallOptions Options(const Ledger::Plan& plan, uint64_t& call);
  // The call may be cancelled from now on.
  void Watch(uint64_t call, CallCanceller canceller);
  void End(uint64_t call, const absl::Status& status);
  void EndStream(absl::string_view kind, uint64_t call, const absl::Status& status);
  DetachedTask Numbers(uint64_t call, uint64_t count, StreamReader<Number> reader);
  DetachedTask Gather(uint64_t call, uint64_t count,
                      ClientStream<Number, Sim::GatherResults> stream);
  DetachedTask Say(uint64_t count, std::shared_ptr<Chatter> chat);
  DetachedTask Hear(uint64_t call, uint64_t count, std::shared_ptr<Chatter> chat);
  // `-> stream` calls.
  DetachedTask Pour();
  void EndPoured(uint64_t call);
  void Fill(Number::Builder message, uint64_t number) {
    message.setNumber(number);
    message.initData(static_cast<unsigned>(world_.Draw(200)));
  }

  World& world_;
  Ledger& ledger_;
  FlowLedger& flows_;
  const bool calls_again_;
  transport::EventLoop* const loop_;
  std::shared_ptr<Channel> channel_;
  std::optional<SimStub> stub_;
  // Of calls that are not over; and of `-> stream` calls whose round is not.
  std::map<uint64_t, CallCanceller> cancellers_;
  std::map<uint64_t, CallCanceller> flow_cancellers_;
};

}  // namespace mi7::sim
