// What is counted and not timed, but for system calls, and what happens once: start-up, sizes,
// compile times.

#include <string>

#include "absl/strings/str_cat.h"
#include "bench/harness/plan_builder.h"

namespace mi7::bench {
namespace {

constexpr size_t kMebibyte = PlanBuilder::kMebibyte;
constexpr int kCompileRounds = 3;
// Of the two services that subject mi7 always has.
constexpr int kMethods = 8;

const std::vector<Placement>& Here() {
  static const auto* placements = new std::vector<Placement>{Placement::kUnpinned};
  return *placements;
}

void AddCounted(PlanBuilder& plan) {
  const auto add = [&](const char* transport, int outstanding, Call call, size_t bytes) {
    Cell cell = plan.Calls("mi7_counting", transport, Waiting::kDefault, outstanding);
    cell.workload.call = call;
    cell.workload.payload_bytes = bytes;
    cell.rounds_max = kCountedRounds;
    return plan.AddCell(cell);
  };
  plan.PromiseValue("L7.allocations", "mi7 shm x32, heap allocations",
                    add("shm", 32, Call::kNumber, 0), 0, Quantity::kAllocations)
      .placements = Here();
  plan.PromiseValue("L7.copied", "mi7 shm, 1 MiB prebuilt, copied",
                    add("shm", 1, Call::kPrebuilt, kMebibyte), 0, Quantity::kCopiedBytes)
      .placements = Here();
  plan.PromiseValue("L7.copied.32", "mi7 shm x32, 32 KiB prebuilt, copied",
                    add("shm", 32, Call::kPrebuilt, 32 * 1024), 0, Quantity::kCopiedBytes)
      .placements = Here();
  if (!plan.options().all_rows) return;
  for (const char* transport : {"shm", "unix", "tcp", "inproc"}) {
    plan.Show(absl::StrCat("allocations.", transport), absl::StrCat("mi7 ", transport, " unary"),
              add(transport, 1, Call::kNumber, 0), Quantity::kAllocations)
        .placements = Here();
    plan.Show(absl::StrCat("allocations.", transport, ".echo64"),
              absl::StrCat("mi7 ", transport, ", 64 B echo"), add(transport, 1, Call::kEcho, 64),
              Quantity::kAllocations)
        .placements = Here();
    // Two copies are the caller's and the handler's own: each fills a message from other memory.
    plan.Show(absl::StrCat("copied.", transport, ".echo1MiB"),
              absl::StrCat("mi7 ", transport, ", 1 MiB echo, copied"),
              add(transport, 1, Call::kEcho, kMebibyte), Quantity::kCopiedBytes)
        .placements = Here();
  }
}

void AddMethods(PlanBuilder& plan) {
  const size_t few = plan.AddCopy(plan.AddNumber("mi7", "shm", Waiting::kDefault, 1), "methods");
  for (int methods : {1, 10, 100, 1'000, 10'000}) {
    Cell cell = plan.Calls("mi7", "shm", Waiting::kDefault, 1);
    cell.workload.scale = methods;
    Row& row =
        plan.Show(absl::StrCat("methods.", methods),
                  absl::StrCat("mi7 shm, ", methods, " methods / ", kMethods), plan.AddCell(cell));
    row.limit = few;
    row.placements = {Placement::kDifferentCpus, Placement::kUnpinned};
  }
}

void AddStartUp(PlanBuilder& plan) {
  const auto add = [&](const char* subject, const char* transport, const char* name) {
    Cell cell = plan.Calls(subject, transport, Waiting::kDefault, 1);
    cell.workload.call = Call::kEcho;
    cell.workload.payload_bytes = 64;
    cell.workload.warmup_ns = 0;
    cell.workload.measure_ns = 0;
    plan.Show(absl::StrCat("startup.", subject, ".", transport),
              absl::StrCat("start-up to first call, ", name), plan.AddCell(cell),
              Quantity::kStartUp)
        .placements = Here();
  };
  add("raw_tcp", "tcp", "raw TCP");
  add("mi7", "tcp", "mi7 tcp");
  add("mi7", "shm", "mi7 shm");
  add("mi7", "unix", "mi7 unix");
  add("mi7", "inproc", "mi7 inproc");
  add("capnp_rpc", "unix", "Cap'n Proto unix");
  add("grpc_sync", "unix", "gRPC sync unix");
  add("thrift", "unix", "Thrift unix");
  add("zeromq", "unix", "ZeroMQ unix");
  add("nng", "unix", "nng unix");
}

void AddBuilt(PlanBuilder& plan) {
  for (const char* subject : {"mi7", "capnp_rpc", "grpc_sync", "thrift"}) {
    const size_t cell =
        plan.AddCell({.kind = Cell::Kind::kProgram, .subject = subject, .rounds_max = 1});
    plan.Show(absl::StrCat("size.", subject), absl::StrCat("program of subject ", subject), cell,
              Quantity::kProgramBytes)
        .placements = Here();
  }
  const auto compile = [&](const char* id, const char* what, const char* source) {
    const size_t cell = plan.AddCell(
        {.kind = Cell::Kind::kCompile, .subject = source, .rounds_max = kCompileRounds});
    plan.Show(id, what, cell, Quantity::kCompileTime).placements = Here();
  };
  compile("compile.mi7", "generated mi7 stub and skeleton", "echo.mi7.cc");
  compile("compile.capnp", "generated Cap'n Proto code", "echo.capnp.c++");
  compile("compile.grpc", "generated gRPC code", "echo_peer.grpc.pb.cc");
  compile("compile.protobuf", "generated Protocol Buffers code", "echo_peer.pb.cc");
  compile("compile.thrift", "generated Thrift code", "EchoPeer.cpp");
}

}  // namespace

void AddCounts(PlanBuilder& plan) {
  AddCounted(plan);
  if (!plan.options().all_rows) return;
  AddMethods(plan);
  AddStartUp(plan);
  AddBuilt(plan);
}

}  // namespace mi7::bench
