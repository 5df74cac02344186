// Subject "raw_memcpy": what copying a payload costs at all. A "call" is one memcpy from one piece
// of private memory to another; the server has nothing to do. The clock is read once for about
// 64 KiB, so that of a small copy it is not what is measured.

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "bench/harness/subject.h"

namespace mi7::bench {
namespace {

constexpr size_t kLotBytes = 64 * 1024;
constexpr size_t kLotMax = 256;

class RawMemcpy final : public Subject {
 public:
  absl::Status Serve(const Workload&,
                     const std::function<void(const std::string&)>& ready) override {
    ready("memory");
    for (;;) ::pause();
  }

  absl::Status MakeCalls(const std::string&, const Workload& workload,
                         Recorder& recorder) override {
    std::vector<char> from(workload.payload_bytes, 1);
    std::vector<char> to(workload.payload_bytes);
    const size_t fitting = kLotBytes / std::max<size_t>(from.size(), 1);
    const auto lot = static_cast<int>(std::clamp<size_t>(fitting, 1, kLotMax));
    recorder.Begin();
    do {
      for (int i = 0; i < lot; ++i) {
        std::memcpy(to.data(), from.data(), from.size());
        // The copy is wanted, whatever the compiler thinks of it.
        asm volatile("" : : "r"(to.data()) : "memory");
      }
    } while (recorder.ContinueAfter(lot));
    return absl::OkStatus();
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::RawMemcpy subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
