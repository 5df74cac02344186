// S: the slot pipe.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/harness/plan_builder.h"

namespace mi7::bench {
namespace {

constexpr size_t kMessageBytes = 64;

Cell Stream(const PlanBuilder& plan, const char* subject, const char* transport, Waiting waiting) {
  Cell cell = plan.Calls(subject, transport, waiting, 1);
  cell.workload.call = Call::kStream;
  cell.workload.payload_bytes = kMessageBytes;
  return cell;
}

}  // namespace

void AddSlotPipe(PlanBuilder& plan) {
  const std::vector<Placement> two_places = {Placement::kDifferentCpus, Placement::kUnpinned};
  // "alone": the client does all of it, on one thread.
  Cell alone = Stream(plan, "slot_pipe", "alone", Waiting::kDefault);
  alone.workload.scale = 100;
  const size_t slots_100 = plan.AddCell(alone);
  alone.workload.scale = 10'000;
  const size_t slots_10000 = plan.AddCell(alone);
  Row& s1 = plan.PromiseValue("S1", "slot pipe: 64 B through 100 slots", slots_100, 100,
                              Quantity::kPerCall);
  s1.placements = two_places;
  s1.stretch = 60;

  const size_t lines = plan.AddCopy(plan.AddNumber("raw_shm", "shm", Waiting::kSpinning, 1), "S2");
  const size_t there_and_back =
      plan.AddEcho("slot_pipe", "pipe", Waiting::kSpinning, 1, kMessageBytes);
  plan.Promise("S2", "slot pipe ping-pong, spinning / lines", there_and_back, lines, 2.5).stretch =
      2.0;

  const size_t ring = plan.AddCell(Stream(plan, "raw_shm", "shm", Waiting::kSpinning));
  const size_t spinning = plan.AddCell(Stream(plan, "slot_pipe", "pipe", Waiting::kSpinning));
  plan.Show("raw.shm.stream", "raw ring, 64 B one way, spinning", ring);
  plan.Promise("S3", "slot pipe stream, spinning / raw ring", spinning, ring, 3.0).stretch = 2.0;

  const size_t one_to_one = plan.AddCell(Stream(plan, "slot_pipe", "pipe", Waiting::kDefault));
  plan.Show("S3.adaptive", "slot pipe stream, adaptive", one_to_one).placements = two_places;
  constexpr struct {
    const char* id;
    int producers;
    int consumers;
  } kManySided[] = {{"S4", 2, 2}, {"S4.4x4", 4, 4}, {"S4.1x4", 1, 4}, {"S4.4x1", 4, 1}};
  for (const auto& [id_of_row, producers, consumers] : kManySided) {
    if (producers != consumers && !plan.options().all_rows) continue;
    // "shared": unlike over "pipe", a consumer need not get every message.
    Cell cell = Stream(plan, "slot_pipe", "shared", Waiting::kDefault);
    cell.clients = producers;
    cell.servers = consumers;
    cell.workload.measure_ns *= kSharedTimes;
    const size_t many = plan.AddCell(cell);
    const std::string id = id_of_row;
    const std::string what = absl::StrCat("slot pipe ", producers, " x ", consumers);
    // Half the throughput is twice the time a message.
    plan.Promise(id, what + " / 1 x 1, adaptive", many, one_to_one, 2.0).placements = two_places;
    plan.PromiseValue(id + ".fair", what + ", max/min", many, 2, Quantity::kUnfairness).placements =
        two_places;
  }
  plan.Promise("S5", "10,000 slots / S1", slots_10000, slots_100, 1.2).placements = two_places;
}

}  // namespace mi7::bench
