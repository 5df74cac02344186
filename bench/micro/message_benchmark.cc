// What one call's messages cost a side in user space: building, finishing, checking, parsing,
// reading. A unary call does each once as a client and once as a server. Bare Cap'n Proto beside
// mi7's own, so that what mi7 adds can be seen.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include <capnp/message.h>

#include "base/check.h"
#include "base/limits.h"
#include "bench/subjects/echo.capnp.h"
#include "benchmark/benchmark.h"
#include "transport/buffer_pool.h"
#include "transport/frame.h"
#include "transport/frame_assembler.h"
#include "transport/message.h"

namespace mi7::bench {
namespace {

using Params = Echo::EchoParams;

constexpr size_t kBodyBytes = 24;

void BM_CapnpBuild(benchmark::State& state) {
  std::array<capnp::word, 64> scratch{};
  for (auto _ : state) {
    capnp::MallocMessageBuilder message(kj::arrayPtr(scratch.data(), scratch.size()));
    message.initRoot<Params>().setValue(7);
    benchmark::DoNotOptimize(message.getSegmentsForOutput());
  }
}
BENCHMARK(BM_CapnpBuild);

void BM_CapnpRead(benchmark::State& state) {
  capnp::MallocMessageBuilder message;
  message.initRoot<Params>().setValue(7);
  const auto segments = message.getSegmentsForOutput();
  for (auto _ : state) {
    capnp::SegmentArrayMessageReader reader(segments);
    benchmark::DoNotOptimize(reader.getRoot<Params>().getValue());
  }
}
BENCHMARK(BM_CapnpRead);

void BM_BuildAndFinish(benchmark::State& state) {
  const Limits limits;
  transport::PieceList pieces;
  for (auto _ : state) {
    transport::OutgoingMessage message = transport::NewHeapMessage(kBodyBytes);
    message->header.type = transport::FrameType::kReturn;
    message->header.call_id = 1;
    message->initRoot<Params>().setValue(7);
    pieces.clear();
    MI7_CHECK(transport::FinishHeapMessage(*message, limits, pieces).ok(), "a small message");
    benchmark::DoNotOptimize(pieces.data());
  }
}
BENCHMARK(BM_BuildAndFinish);

// As if received: one contiguous frame in a pooled buffer.
transport::BufferRef FrameInBuffer(size_t* size) {
  transport::OutgoingMessage message = transport::NewHeapMessage(kBodyBytes);
  message->header.type = transport::FrameType::kReturn;
  message->header.call_id = 1;
  message->initRoot<Params>().setValue(7);
  transport::PieceList pieces;
  MI7_CHECK(transport::FinishHeapMessage(*message, Limits{}, pieces).ok(), "a small message");
  transport::BufferRef buffer = transport::BufferPool::Allocate(4096 - 64);
  *size = 0;
  for (const transport::ByteSpan& piece : pieces) {
    std::memcpy(buffer->data() + *size, piece.data, piece.size);
    *size += piece.size;
  }
  return buffer;
}

void BM_CheckParseAndRead(benchmark::State& state) {
  const Limits limits;
  size_t size = 0;
  const transport::BufferRef buffer = FrameInBuffer(&size);
  for (auto _ : state) {
    transport::FrameHeader header;
    std::memcpy(&header, buffer->data(), sizeof(header));
    MI7_CHECK(transport::CheckFrameHeader(header, limits).ok(), "a sound header");
    const std::span<const std::byte> rest(buffer->data() + sizeof(header), size - sizeof(header));
    auto message = transport::ParseMessage(header, rest, buffer.Share().release(), 0, limits);
    MI7_CHECK(message.ok(), "a sound message");
    const auto segments = message->segments();
    capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments.data(), segments.size()));
    benchmark::DoNotOptimize(reader.getRoot<Params>().getValue());
  }
}
BENCHMARK(BM_CheckParseAndRead);

void BM_CheckFrameHeader(benchmark::State& state) {
  const Limits limits;
  size_t size = 0;
  const transport::BufferRef buffer = FrameInBuffer(&size);
  transport::FrameHeader header;
  std::memcpy(&header, buffer->data(), sizeof(header));
  for (auto _ : state) {
    benchmark::DoNotOptimize(header);
    benchmark::DoNotOptimize(transport::CheckFrameHeader(header, limits).ok());
  }
}
BENCHMARK(BM_CheckFrameHeader);

// Received bytes to messages, so many small ones in each read; time per message. Without the read.
void BM_FrameAssembler(benchmark::State& state) {
  const Limits limits;
  size_t size = 0;
  const transport::BufferRef frame = FrameInBuffer(&size);
  transport::FrameAssembler assembler(&limits);
  transport::FrameAssembler::Received received;
  const auto messages = static_cast<size_t>(state.range(0));
  for (auto _ : state) {
    size_t left = messages * size;
    size_t begun = 0;  // bytes of the frame that is in part there
    while (left != 0) {
      const std::span<std::byte> space = assembler.Space();
      const size_t bytes = std::min(left, space.size());
      for (size_t at = 0; at < bytes;) {
        const size_t part = std::min(size - begun, bytes - at);
        std::memcpy(space.data() + at, frame->data() + begun, part);
        begun = (begun + part) % size;
        at += part;
      }
      assembler.Filled(bytes);
      left -= bytes;
      while (assembler.Next(received) == transport::FrameAssembler::Result::kMessage) {
        benchmark::DoNotOptimize(received.message);
      }
    }
  }
  MI7_CHECK(assembler.AtBoundary(), "all frames were whole");
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_FrameAssembler)->Arg(1)->Arg(16)->Arg(256);

void BM_BufferFromPool(benchmark::State& state) {
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        transport::BufferPool::Allocate(static_cast<size_t>(state.range(0))).get());
  }
}
BENCHMARK(BM_BufferFromPool)->Arg(4000)->Arg(64 << 10)->Arg(1 << 20);

}  // namespace
}  // namespace mi7::bench
