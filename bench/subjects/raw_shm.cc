#include "bench/subjects/raw_shm.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/subjects/payload.h"
#include "bench/subjects/shared_region.h"

namespace mi7::bench {
namespace {

constexpr size_t kLineWords = 7;
constexpr uint32_t kRingLines = 256;
using Words = std::array<uint64_t, kLineWords>;

struct alignas(64) Line {
  std::atomic<uint32_t> signal;
  uint32_t reserved;
  Words words;
};
static_assert(sizeof(Line) == 64);

// A signal, and bytes that do not fit beside it.
constexpr size_t kPairBytes = 64;
struct Pair {
  alignas(64) std::atomic<uint32_t> signal;
  alignas(64) std::array<uint64_t, kPairBytes / 8> words;
};
static_assert(sizeof(Pair) == 128);

struct Layout {
  // 0: what the server waits for; 1: what the client waits for. A pair of lines apart, because
  // processors fetch lines in pairs.
  struct alignas(128) Way {
    std::array<Line, kRingLines> lines;
  };
  std::array<Way, 2> ways;
  std::array<std::array<Pair, kRingLines>, 2> pairs;  // as `ways`
  alignas(4096) uint64_t payload[1];
};

// Of what is touched in place; a small echo has its pair of lines.
size_t PayloadBytes(const Workload& workload) {
  return workload.call == Call::kTouched ? workload.payload_bytes : 0;
}

size_t RegionBytes(const Workload& workload) { return sizeof(Layout) + PayloadBytes(workload); }

// One end of the region.
class End {
 public:
  End(const SharedRegion& region, const Workload& workload, int end, RawShm::Sleeping sleeping)
      : region_(region),
        layout_(static_cast<Layout*>(region.data())),
        payload_(layout_->payload, PayloadBytes(workload) / sizeof(uint64_t)),
        end_(end),
        lines_(workload.outstanding == 1 ? 1 : kRingLines),
        blocking_(workload.waiting == Waiting::kBlocking),
        sleeping_(sleeping) {}

  std::span<uint64_t> payload() const { return payload_; }

  // The pair of lines of message `number` of the side that is at this end, or at the other.
  Pair& IncomingPair(uint32_t number) const { return layout_->pairs[end_][number % kRingLines]; }
  Pair& OutgoingPair(uint32_t number) const {
    return layout_->pairs[1 - end_][number % kRingLines];
  }

  // The line of message number `number`, counted from 0, that comes to this end or leaves from it.
  Line& Incoming(uint32_t number) const { return layout_->ways[end_].lines[number % lines_]; }
  Line& Outgoing(uint32_t number) const { return layout_->ways[1 - end_].lines[number % lines_]; }

  static bool Arrived(const Line& line, uint32_t number) {
    return line.signal.load(std::memory_order_acquire) == number + 1;
  }

  // Message `number`, when it has come.
  absl::StatusOr<Words> Receive(uint32_t number) {
    Line& line = Incoming(number);
    while (!Arrived(line, number)) {
      if (!blocking_) continue;
      if (sleeping_ == RawShm::Sleeping::kEventfd) {
        if (absl::Status slept = region_.Sleep(end_); !slept.ok()) return slept;
      } else {
        const uint32_t before = line.signal.load(std::memory_order_acquire);
        if (before != number + 1) {
          ::syscall(SYS_futex, &line.signal, FUTEX_WAIT, before, nullptr, nullptr, 0);
        }
      }
    }
    return line.words;
  }

  absl::Status Send(uint32_t number, const Words& words) {
    Line& line = Outgoing(number);
    line.words = words;
    line.signal.store(number + 1, std::memory_order_release);
    if (!blocking_) return absl::OkStatus();
    if (sleeping_ == RawShm::Sleeping::kEventfd) return region_.Signal(1 - end_);
    ::syscall(SYS_futex, &line.signal, FUTEX_WAKE, 1, nullptr, nullptr, 0);
    return absl::OkStatus();
  }

 private:
  const SharedRegion& region_;
  Layout* const layout_;
  const std::span<uint64_t> payload_;
  const int end_;
  const uint32_t lines_;  // in use
  const bool blocking_;
  const RawShm::Sleeping sleeping_;
};

absl::Status CallOneByOne(End& end, Recorder& recorder) {
  uint32_t number = 0;
  recorder.Begin();
  do {
    const uint64_t value = number + 1;
    FillPayload(end.payload(), value);
    if (absl::Status sent = end.Send(number, {value, 2, 3, 4, 5, 6, 7}); !sent.ok()) return sent;
    const absl::StatusOr<Words> answer = end.Receive(number);
    if (!answer.ok()) return answer.status();
    const uint64_t expected = end.payload().empty() ? value : value * end.payload().size();
    if ((*answer)[0] != expected || (*answer)[6] != 7) {
      return absl::DataLossError(absl::StrCat("wrong answer to message ", number));
    }
    ++number;
  } while (recorder.Continue());
  return absl::OkStatus();
}

// Waits, spinning, until a pair's signal is `wanted`.
void WaitFor(const Pair& pair, uint32_t wanted) {
  while (pair.signal.load(std::memory_order_acquire) != wanted) {
  }
}

void ServePairs(End& end) {
  for (uint32_t number = 1;; ++number) {
    const Pair& request = end.IncomingPair(0);
    WaitFor(request, number);
    const auto words = request.words;
    end.OutgoingPair(0).words = words;
    end.OutgoingPair(0).signal.store(number, std::memory_order_release);
  }
}

absl::Status CallPairs(End& end, Recorder& recorder) {
  uint32_t number = 0;
  recorder.Begin();
  do {
    Pair& request = end.OutgoingPair(0);
    request.words.fill(++number);
    request.signal.store(number, std::memory_order_release);
    const Pair& answer = end.IncomingPair(0);
    WaitFor(answer, number);
    const auto words = answer.words;
    if (words.front() != number || words.back() != number) {
      return absl::DataLossError(absl::StrCat("wrong answer to message ", number));
    }
  } while (recorder.Continue());
  return absl::OkStatus();
}

// A stream's pairs are full (1) or empty (0); both sides go round.
absl::Status ConsumeStream(End& end) {
  for (uint32_t number = 0;; ++number) {
    Pair& pair = end.IncomingPair(number);
    WaitFor(pair, 1);
    const auto words = pair.words;
    if (words.front() != number || words.back() != number) {
      return absl::DataLossError(absl::StrCat("wrong message ", number));
    }
    pair.signal.store(0, std::memory_order_release);
  }
}

void ProduceStream(End& end, Recorder& recorder) {
  recorder.Begin();
  uint32_t number = 0;
  do {
    int64_t stamp_ns = 0;
    do {
      stamp_ns = recorder.Issue();
      Pair& pair = end.OutgoingPair(number);
      WaitFor(pair, 0);
      pair.words.fill(number++);
      pair.signal.store(1, std::memory_order_release);
    } while (recorder.Sent(stamp_ns));
    // The consumer, which ends at the first wrong message, has taken all of them.
    for (uint32_t i = 0; i < kRingLines; ++i) WaitFor(end.OutgoingPair(i), 0);
  } while (recorder.Confirm());
}

absl::Status CallPipelined(End& end, uint32_t outstanding, Recorder& recorder) {
  std::vector<int64_t> stamps(outstanding);
  uint32_t sent = 0;
  uint32_t answered = 0;
  const auto send_one = [&] {
    stamps[sent % outstanding] = recorder.Issue();
    end.Send(sent, {sent, 2, 3, 4, 5, 6, 7}).IgnoreError();  // fails only when it blocks
    ++sent;
  };
  recorder.Begin();
  while (sent < outstanding) send_one();
  while (answered != sent) {
    const absl::StatusOr<Words> answer = end.Receive(answered);
    if ((*answer)[0] != answered || (*answer)[6] != 7) {
      return absl::DataLossError(absl::StrCat("wrong answer to message ", answered));
    }
    if (recorder.Complete(stamps[answered++ % outstanding])) send_one();
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RawShm::Serve(const Workload& workload,
                           const std::function<void(const std::string&)>& ready) {
  const absl::StatusOr<SharedRegion> region = SharedRegion::Serve(RegionBytes(workload), ready);
  if (!region.ok()) return region.status();
  End end(*region, workload, 0, sleeping_);
  if (workload.call == Call::kStream) return ConsumeStream(end);
  if (workload.call == Call::kEcho) ServePairs(end);
  for (uint32_t number = 0;; ++number) {
    absl::StatusOr<Words> words = end.Receive(number);
    if (!words.ok()) return words.status();
    if (!end.payload().empty()) (*words)[0] = SumPayload(end.payload());
    if (absl::Status sent = end.Send(number, *words); !sent.ok()) return sent;
  }
}

absl::Status RawShm::MakeCalls(const std::string& address, const Workload& workload,
                               Recorder& recorder) {
  const bool pipelined = workload.outstanding > 1;
  const bool pairs = workload.call == Call::kEcho || workload.call == Call::kStream;
  const bool spinning = workload.waiting == Waiting::kSpinning;
  if (workload.outstanding > static_cast<int>(kRingLines) || workload.call == Call::kPrebuilt ||
      (pipelined && (!spinning || workload.call != Call::kNumber)) ||
      (pairs && (!spinning || workload.payload_bytes != kPairBytes))) {
    return absl::InvalidArgumentError(
        absl::StrCat("raw_shm knows no such calls: ", workload.Encode()));
  }
  const absl::StatusOr<SharedRegion> region = SharedRegion::Connect(address, RegionBytes(workload));
  if (!region.ok()) return region.status();
  End end(*region, workload, 1, sleeping_);
  if (workload.call == Call::kEcho) return CallPairs(end, recorder);
  if (workload.call == Call::kStream) {
    ProduceStream(end, recorder);
    return absl::OkStatus();
  }
  return pipelined ? CallPipelined(end, static_cast<uint32_t>(workload.outstanding), recorder)
                   : CallOneByOne(end, recorder);
}

}  // namespace mi7::bench
