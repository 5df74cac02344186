#include "bench/harness/plan.h"

#include "bench/harness/plan_builder.h"

namespace mi7::bench {

Plan MakePlan(const PlanOptions& options) {
  PlanBuilder plan(options);
  AddTcp(plan);
  AddLocal(plan);
  AddPeers(plan);
  AddSlotPipe(plan);
  AddStreams(plan);
  AddSystemCalls(plan);
  AddCounts(plan);
  AddCurves(plan);
  return plan.Take();
}

}  // namespace mi7::bench
