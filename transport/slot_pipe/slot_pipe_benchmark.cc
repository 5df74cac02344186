// bazel run -c opt //transport/slot_pipe:slot_pipe_benchmark
//
// The figures S1, S2, S3 and S5 of the slot pipe (README.md) with their limits in the same run. Two
// threads with a SlotPipe each stand for two processes: the memory and the protocol are the same.

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "benchmark/benchmark.h"
#include "transport/slot_pipe/slot_pipe.h"

namespace mi7 {
namespace {

constexpr size_t kBytes = 64;

// A pipe and two participants in it.
struct Ends {
  std::unique_ptr<SlotPipe> mine;
  std::unique_ptr<SlotPipe> peers;
};

Ends MakePipe(uint32_t slots, const JoinOptions& join = {}) {
  static int count = 0;
  const std::string name = absl::StrCat("benchmark-", ::getpid(), "-", count++);
  Ends ends{SlotPipe::Create(name, {.slots = slots, .slot_bytes = 4096}, join).value(),
            SlotPipe::Connect(name, join).value()};
  SlotPipe::Remove(name, true).IgnoreError();
  return ends;
}

void SendOne(SlotPipe& pipe) {
  auto slot = pipe.Hold();
  std::memset(slot->data(), 1, kBytes);
  if (!slot->Send(kBytes).ok()) std::abort();
}

void ReceiveOne(SlotPipe& pipe) {
  auto message = pipe.Fetch();
  uint64_t words[kBytes / 8];
  std::memcpy(words, message->data(), kBytes);
  benchmark::DoNotOptimize(words);
  if (!message->Release().ok()) std::abort();
}

// S1 and S5: hold, write, send, fetch, read, release; one thread, nobody else.
void OneThread(benchmark::State& state) {
  const Ends pipe = MakePipe(static_cast<uint32_t>(state.range(0)));
  for (auto _ : state) {
    SendOne(*pipe.mine);
    ReceiveOne(*pipe.mine);
  }
}
BENCHMARK(OneThread)->Arg(10)->Arg(100)->Arg(10'000);

// S3: streaming from one thread to another.
void Stream(benchmark::State& state) {
  const Ends pipe = MakePipe(static_cast<uint32_t>(state.range(0)));
  std::atomic<int64_t> left{0};
  std::atomic<bool> stop{false};
  std::thread producer([&] {
    while (!stop.load(std::memory_order_relaxed)) {
      if (left.load(std::memory_order_relaxed) <= 0) continue;
      left.fetch_sub(100, std::memory_order_relaxed);
      for (int i = 0; i < 100; ++i) SendOne(*pipe.peers);
    }
  });
  for (auto _ : state) {
    left.fetch_add(1000, std::memory_order_relaxed);
    for (int i = 0; i < 1000; ++i) ReceiveOne(*pipe.mine);
  }
  stop = true;
  producer.join();
  state.SetItemsProcessed(state.iterations() * 1000);
}
BENCHMARK(Stream)->Arg(100)->UseRealTime();

// The limit of S3: a ring of slots with a sequence word each, written and read by one thread each.
void RawRing(benchmark::State& state) {
  struct alignas(64) Slot {
    std::atomic<uint64_t> sequence{0};
    alignas(64) char payload[kBytes];
  };
  constexpr uint64_t kSlots = 128;
  auto slots = std::make_unique<Slot[]>(kSlots);
  std::atomic<bool> stop{false};
  std::thread producer([&] {
    for (uint64_t at = 0;; ++at) {
      Slot& slot = slots[at % kSlots];
      // Even 2n: empty for round n; odd: full.
      while (slot.sequence.load(std::memory_order_acquire) != at / kSlots * 2) {
        if (stop.load(std::memory_order_relaxed)) return;
      }
      std::memset(slot.payload, 1, kBytes);
      slot.sequence.store(at / kSlots * 2 + 1, std::memory_order_release);
    }
  });
  uint64_t at = 0;
  for (auto _ : state) {
    for (int i = 0; i < 1000; ++i, ++at) {
      Slot& slot = slots[at % kSlots];
      while (slot.sequence.load(std::memory_order_acquire) != at / kSlots * 2 + 1) {
      }
      uint64_t words[kBytes / 8];
      std::memcpy(words, slot.payload, kBytes);
      benchmark::DoNotOptimize(words);
      slot.sequence.store(at / kSlots * 2 + 2, std::memory_order_release);
    }
  }
  stop = true;
  producer.join();
  state.SetItemsProcessed(state.iterations() * 1000);
}
BENCHMARK(RawRing)->UseRealTime();

// S2: there and back through two pipes, both sides spinning.
void PingPong(benchmark::State& state) {
  const JoinOptions spin{.wait = transport::WaitPolicy::kSpin};
  const Ends there = MakePipe(100, spin);
  const Ends back = MakePipe(100, spin);
  std::thread peer([&] {
    for (;;) {
      auto message = there.peers->Fetch();
      if (!message.ok() || !message->Release().ok()) return;
      SendOne(*back.peers);
    }
  });
  for (auto _ : state) {
    SendOne(*there.mine);
    ReceiveOne(*back.mine);
  }
  there.peers->Cancel();
  peer.join();
}
BENCHMARK(PingPong)->UseRealTime();

// The limit of S2: two cache lines, each written by one thread and polled by the other.
void TwoLines(benchmark::State& state) {
  struct Lines {
    alignas(128) std::atomic<uint64_t> there{0};
    alignas(128) std::atomic<uint64_t> back{0};
  };
  auto lines = std::make_unique<Lines>();
  std::thread peer([&] {
    for (uint64_t round = 1;; ++round) {
      uint64_t seen;
      while ((seen = lines->there.load(std::memory_order_acquire)) < round) {
      }
      if (seen == ~uint64_t{0}) return;
      lines->back.store(round, std::memory_order_release);
    }
  });
  uint64_t round = 0;
  for (auto _ : state) {
    lines->there.store(++round, std::memory_order_release);
    while (lines->back.load(std::memory_order_acquire) < round) {
    }
  }
  lines->there.store(~uint64_t{0}, std::memory_order_release);
  peer.join();
}
BENCHMARK(TwoLines)->UseRealTime();

}  // namespace
}  // namespace mi7
