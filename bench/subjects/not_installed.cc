// Stands for a peer whose packages were not installed when the bench was built.

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
