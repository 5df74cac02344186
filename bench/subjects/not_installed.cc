// Stands for a peer that is not here: its packages were not installed when the bench was built, or
// there are none, in which case MI7_BENCH_PACKAGES is empty.

#include <functional>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "bench/harness/subject.h"

namespace mi7::bench {
namespace {

class NotInstalled final : public Subject {
 public:
  absl::Status Serve(const Workload&, const std::function<void(const std::string&)>&) override {
    return Why();
  }
  absl::Status MakeCalls(const std::string&, const Workload&, Recorder&) override { return Why(); }

 private:
  static absl::Status Why() {
    if (std::string_view(MI7_BENCH_PACKAGES).empty()) {
      return absl::NotFoundError("not packaged by Debian: see bench/README.md");
    }
    return absl::NotFoundError(absl::StrCat("not installed: apt-get install ", MI7_BENCH_PACKAGES,
                                            ", or tools/bench --install-peers"));
  }
};

}  // namespace
}  // namespace mi7::bench

int main(int argc, char** argv) {
  mi7::bench::NotInstalled subject;
  return mi7::bench::RunSubject(argc, argv, subject);
}
