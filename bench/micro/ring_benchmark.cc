// What the ring of shared memory costs: a record written and read on one thread, where no cache
// line travels, and a record there and one back between two threads.

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>

#include "base/check.h"
#include "benchmark/benchmark.h"
#include "transport/frame.h"
#include "transport/shm/layout.h"
#include "transport/shm/ring.h"

namespace mi7::bench {
namespace {

using transport::FrameHeader;
using transport::FrameType;
using namespace transport::shm;

FrameHeader CallHeader() {
  FrameHeader header;
  header.size = 32;
  header.type = FrameType::kCall;
  return header;
}

// Two control pages, and one ring between them.
struct OneWay {
  std::unique_ptr<Control> mine = std::make_unique<Control>();
  std::unique_ptr<Control> theirs = std::make_unique<Control>();
  RingWriter writer{*mine, *theirs};
  RingReader reader{*mine, *theirs};
};

void WriteOne(RingWriter& writer, std::span<const uint64_t> words) {
  while (!writer.HasRoom(static_cast<uint32_t>(words.size()))) {
  }
  writer.Write(CallHeader(), Form::kInline, words);
}

void ReadOne(RingReader& reader, Record& record) {
  MI7_CHECK(reader.Read(record), "our own writer writes sound records");
  reader.Publish();
}

void BM_RingWriteAndRead(benchmark::State& state) {
  OneWay way;
  const std::array<uint64_t, kRecordWordsMax> words = {};
  const auto count = static_cast<size_t>(state.range(0));
  Record record;
  for (auto _ : state) {
    WriteOne(way.writer, std::span(words).first(count));
    MI7_CHECK(way.reader.Ready(), "what was written is there");
    ReadOne(way.reader, record);
    benchmark::DoNotOptimize(record);
  }
}
// In words: nothing, a number with its root pointer, as much as fits.
BENCHMARK(BM_RingWriteAndRead)->Arg(0)->Arg(3)->Arg(kRecordWordsMax);

void BM_RingThereAndBack(benchmark::State& state) {
  OneWay there;
  OneWay back;
  const std::array<uint64_t, 3> words = {};
  std::atomic<bool> stop{false};
  std::thread peer([&] {
    Record record;
    while (!stop.load(std::memory_order_relaxed)) {
      if (!there.reader.Ready()) continue;
      ReadOne(there.reader, record);
      WriteOne(back.writer, words);
    }
  });
  Record record;
  for (auto _ : state) {
    WriteOne(there.writer, words);
    while (!back.reader.Ready()) {
    }
    ReadOne(back.reader, record);
  }
  stop = true;
  peer.join();
}
BENCHMARK(BM_RingThereAndBack)->UseRealTime();

}  // namespace
}  // namespace mi7::bench
