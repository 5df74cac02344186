#include "examples/files/for_each.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace files {

absl::Status ForEach(size_t count, int threads, absl::FunctionRef<absl::Status(size_t)> work) {
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  absl::Mutex mutex;
  absl::Status failure;
  const auto run = [&] {
    while (!failed) {
      const size_t i = next.fetch_add(1);
      if (i >= count) return;
      if (absl::Status status = work(i); !status.ok()) {
        failed = true;
        absl::MutexLock lock(&mutex);
        failure.Update(status);
      }
    }
  };
  std::vector<std::thread> running;
  const size_t others = std::min(count, static_cast<size_t>(std::max(1, threads)));
  for (size_t i = 1; i < others; ++i) running.emplace_back(run);
  run();
  for (std::thread& thread : running) thread.join();
  return failure;
}

}  // namespace files
