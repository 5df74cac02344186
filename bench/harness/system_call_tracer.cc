#include "bench/harness/system_call_tracer.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "bench/harness/system_call_kinds.h"

namespace mi7::bench {
namespace {

constexpr unsigned long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXIT;

// The process of a thread; 0 when it is gone.
pid_t ProcessOf(pid_t thread, pid_t candidate) {
  std::error_code ignored;
  const auto path = absl::StrCat("/proc/", candidate, "/task/", thread);
  return std::filesystem::exists(path, ignored) ? candidate : 0;
}

}  // namespace

SystemCallTracer::SystemCallTracer(pid_t client, pid_t server, const ResultHeader& header)
    : client_(client), server_(server), header_(header), tracer_([this] { Run(); }) {}

SystemCallTracer::~SystemCallTracer() { Join(); }

void SystemCallTracer::Join() {
  if (tracer_.joinable()) tracer_.join();
}

absl::Status SystemCallTracer::Attached() { return is_attached_.get(); }

absl::Status SystemCallTracer::Attach(pid_t process) {
  std::error_code failed;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", process, "/task"), failed)) {
    pid_t thread = 0;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &thread)) continue;
    if (::ptrace(PTRACE_SEIZE, thread, nullptr, kOptions) != 0 ||
        ::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr) != 0) {
      return absl::PermissionDeniedError(
          absl::StrCat("ptrace of ", process, ": ", std::strerror(errno)));
    }
  }
  if (failed) return absl::NotFoundError(absl::StrCat("no process ", process));
  return absl::OkStatus();
}

void SystemCallTracer::Run() {
  absl::Status attached = Attach(client_);
  attached.Update(Attach(server_));
  const bool go_on = attached.ok();
  attached_.set_value(std::move(attached));
  if (!go_on) return;
  for (;;) {
    int status = 0;
    // Of this thread's own, which are those that it traces.
    const pid_t thread = ::waitpid(-1, &status, __WALL | __WNOTHREAD);
    if (thread < 0 && errno == EINTR) continue;
    if (thread < 0 || !Handle(thread, status)) return;
  }
}

bool SystemCallTracer::Handle(pid_t thread, int status) {
  if (!WIFSTOPPED(status)) return thread != client_;
  const int event = status >> 16;
  if (event == PTRACE_EVENT_EXIT && thread == client_) return false;
  int signal = WSTOPSIG(status);
  if (signal == (SIGTRAP | 0x80)) {
    Count(thread);
    signal = 0;
  } else if (event != 0) {
    signal = 0;  // it is ptrace's own, not one for the process
  }
  ::ptrace(PTRACE_SYSCALL, thread, nullptr, signal);
  return true;
}

void SystemCallTracer::Count(pid_t thread) {
  // The client is stopped, or was when the server made its call: relaxed is enough for a count.
  if (header_.measuring.load(std::memory_order_relaxed) == 0) return;
  __ptrace_syscall_info info = {};
  if (::ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof(info), &info) <= 0 ||
      info.op != PTRACE_SYSCALL_INFO_ENTRY) {
    return;
  }
  SystemCallCounts& counts = counts_[ProcessOf(thread, client_) != 0 ? 0 : 1];
  ++counts.all;
  if (Wakes(static_cast<long>(info.entry.nr), info.entry.args[1])) ++counts.wakes;
}

}  // namespace mi7::bench
