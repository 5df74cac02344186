// Subject "raw_memcpy": what copying a payload costs at all. A "call" is one memcpy from one piece
// of private memory to another; the server has nothing to do.

#include <unistd.h>

#include <cstring>
#include <vector>

#include "bench/harness/subject.h"

namespace mi7::bench {
namespace {

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
    recorder.Begin();
    do {
      std::memcpy(to.data(), from.data(), from.size());
      // The copy is wanted, whatever the compiler thinks of it.
      asm volatile("" : : "r"(to.data()) : "memory");
    } while (recorder.Continue());
    return absl::OkStatus();
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::RawMemcpy subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
