// Work for several processes: tasks go out through one pipe, results come back through another. One
// worker is killed in the middle of a task, which another one then gets, marked as given out
// before. Every task is answered at least once, and counted once.
//
//   task_queue [--tasks=N] [--workers=N]

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "transport/slot_pipe/slot_pipe.h"

ABSL_FLAG(uint32_t, tasks, 40, "numbers to factorize");
ABSL_FLAG(uint32_t, workers, 3, "processes that do it, 2 to 4,093");

namespace {

// A pipe's participants are the workers and the parent.
constexpr uint32_t kWorkersMax = 4093;

// In shared memory between processes of one program: plain structs will do.
struct Task {
  uint32_t id;
  bool deadly;  // its first worker is killed while it works on it
  uint64_t number;
};
struct Result {
  uint32_t id;
  uint32_t attempt;
  uint64_t number;
  uint64_t largest_factor;
};

uint64_t LargestFactor(uint64_t number) {
  uint64_t largest = 1;
  for (uint64_t factor = 2; factor * factor <= number; ++factor) {
    while (number % factor == 0) {
      largest = factor;
      number /= factor;
    }
  }
  return number > 1 ? number : largest;
}

template <typename T>
absl::Status SendStruct(mi7::SlotPipe& pipe, const T& value,
                        mi7::Deadline deadline = mi7::Deadline::Infinite()) {
  return pipe.SendBytes({reinterpret_cast<const char*>(&value), sizeof(value)}, deadline);
}
template <typename T>
T Read(const mi7::ReadSlot& slot) {
  T value{};
  std::memcpy(&value, slot.data(), std::min(sizeof(value), slot.size()));
  return value;
}

// Takes tasks until there are none for a while. The result is sent before the task is released: who
// dies between the two makes the task come again, and its result twice, with the same id. That is
// what at-least-once means, and the collector counts by id.
int Work(const std::string& name) {
  auto tasks = mi7::SlotPipe::Connect(name + "-tasks", {.name = "worker"});
  auto results = mi7::SlotPipe::Connect(name + "-results", {.name = "worker"});
  if (!tasks.ok() || !results.ok()) return 1;
  for (;;) {
    auto slot = (*tasks)->Fetch(mi7::Deadline::After(absl::Seconds(30)));
    if (!slot.ok()) return 1;
    const Task task = Read<Task>(*slot);
    if (task.number == 0) return slot->Release().ok() ? 0 : 1;  // the end
    if (task.deadly && !slot->redelivered()) ::raise(SIGKILL);
    const Result result{task.id, slot->attempt(), task.number, LargestFactor(task.number)};
    if (!SendStruct(**results, result).ok() || !slot->Release().ok()) return 1;
  }
}

int Run() {
  const std::string name = absl::StrCat("task-queue-", ::getpid());
  const uint32_t count = absl::GetFlag(FLAGS_tasks);
  const uint32_t workers = absl::GetFlag(FLAGS_workers);
  mi7::PipeOptions options = mi7::PipeOptions::Small();
  options.participants = workers + 1;
  auto tasks = mi7::SlotPipe::Create(name + "-tasks", options);
  auto results = mi7::SlotPipe::Create(name + "-results", options);
  for (const absl::Status& status : {tasks.status(), results.status()}) {
    if (status.ok()) continue;
    std::cerr << "task_queue: " << status << "\n";
    return 1;
  }
  std::vector<pid_t> children;
  for (uint32_t i = 0; i < workers; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(Work(name));
    if (child < 0) {
      std::cerr << "task_queue: cannot make worker " << i + 1 << ": " << std::strerror(errno)
                << "\n";
      break;
    }
    children.push_back(child);
  }

  std::vector<uint32_t> answers(count);
  uint32_t collected = 0;
  uint32_t repeated = 0;
  const auto collect = [&](mi7::Deadline deadline) {
    auto slot = (*results)->Fetch(deadline);
    if (!slot.ok()) return false;
    const Result result = Read<Result>(*slot);
    if (result.id < count && ++answers[result.id] == 1) ++collected;
    if (result.attempt > 1) {
      ++repeated;
      std::cout << "task " << result.id << " was answered at attempt " << result.attempt << "\n";
    }
    return slot->Release().ok();
  };
  uint32_t sent = 0;
  while (collected < count) {
    // Tasks wait in slots, so a slow worker holds back the giver and not the memory.
    while (sent < count) {
      auto slot = (*tasks)->TryHold();
      if (!slot.ok()) break;
      const Task task{sent, sent == count / 2, 1'000'000'000ull + 7 * sent};
      std::memcpy(slot->data(), &task, sizeof(task));
      if (!slot->Send(sizeof(task)).ok()) return 1;
      ++sent;
    }
    if (!collect(mi7::Deadline::After(absl::Seconds(30)))) {
      std::cerr << "task_queue: no result came for 30 s\n";
      break;
    }
  }
  // One end for each worker; the dead one's is left. Nobody takes them where all are dead.
  for (size_t i = 0; i < children.size(); ++i) {
    const absl::Status told = SendStruct(**tasks, Task{}, mi7::Deadline::After(absl::Seconds(30)));
    if (told.ok()) continue;
    std::cerr << "task_queue: workers do not take their ends: " << told << "\n";
    break;
  }
  uint32_t killed = 0;
  bool well = collected == count && repeated >= 1 && children.size() == workers;
  for (const pid_t child : children) {
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      ++killed;
    } else if (WEXITSTATUS(status) != 0) {
      well = false;
    }
  }
  std::cout << collected << " of " << count << " tasks answered by " << children.size()
            << " workers, " << killed << " of which was killed\n";
  for (const char* which : {"-tasks", "-results"}) {
    if (!mi7::SlotPipe::Remove(name + which, true).ok()) return 1;
  }
  return well && killed == 1 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (absl::ParseCommandLine(argc, argv).size() > 1) {
    std::cerr << "task_queue: takes no arguments but flags; see --help\n";
    return 2;
  }
  if (const uint32_t workers = absl::GetFlag(FLAGS_workers); workers < 2 || workers > kWorkersMax) {
    std::cerr << "task_queue: --workers=" << workers << " is not 2 to " << kWorkersMax << "\n";
    return 2;
  }
  return Run();
}
