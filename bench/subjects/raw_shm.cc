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

struct Layout {
  // 0: what the server waits for; 1: what the client waits for. A pair of lines apart, because
  // processors fetch lines in pairs.
  struct alignas(128) Way {
    std::array<Line, kRingLines> lines;
  };
  std::array<Way, 2> ways;
  alignas(4096) uint64_t payload[1];
};

size_t RegionBytes(const Workload& workload) { return sizeof(Layout) + workload.payload_bytes; }

// One end of the region.
class End {
 public:
  End(const SharedRegion& region, const Workload& workload, int end, RawShm::Sleeping sleeping)
      : region_(region),
        layout_(static_cast<Layout*>(region.data())),
        payload_(layout_->payload, workload.payload_bytes / sizeof(uint64_t)),
        end_(end),
        lines_(workload.outstanding == 1 ? 1 : kRingLines),
        blocking_(workload.waiting == Waiting::kBlocking),
        sleeping_(sleeping) {}

  std::span<uint64_t> payload() const { return payload_; }

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
  if (workload.outstanding > static_cast<int>(kRingLines) ||
      (pipelined && (workload.waiting != Waiting::kSpinning || workload.payload_bytes != 0))) {
    return absl::InvalidArgumentError(
        absl::StrCat("raw_shm keeps up to ", kRingLines,
                     " messages in flight, spinning and without a payload when more than one, not ",
                     workload.Encode()));
  }
  const absl::StatusOr<SharedRegion> region = SharedRegion::Connect(address, RegionBytes(workload));
  if (!region.ok()) return region.status();
  End end(*region, workload, 1, sleeping_);
  return pipelined ? CallPipelined(end, static_cast<uint32_t>(workload.outstanding), recorder)
                   : CallOneByOne(end, recorder);
}

absl::Status RawShm::OpenIdleConnections(const std::string&, int) {
  return absl::UnimplementedError("bare memory has no connections");
}

}  // namespace mi7::bench
