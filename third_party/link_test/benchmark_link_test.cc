#include "benchmark/benchmark.h"

namespace {

void Add(benchmark::State& state) {
  int sum = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sum += 1);
}
BENCHMARK(Add);

}  // namespace
