#include "rpc/testing/in_process.h"

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/deadline.h"

namespace mi7 {
namespace {

template <typename T>
T OrDie(absl::StatusOr<T> made) {
  if (made.ok()) return *std::move(made);
  std::fprintf(stderr, "mi7::InProcess: %s\n", made.status().ToString().c_str());
  std::abort();
}

std::string NewName() {
  static std::atomic<uint64_t> last{0};
  // Relaxed: only has to be another one.
  return absl::StrCat("inproc:test-", last.fetch_add(1, std::memory_order_relaxed) + 1);
}

}  // namespace

InProcess::InProcess(Service* service, const InProcessOptions& options)
    : InProcess(std::vector<Service*>{service}, options) {}

InProcess::InProcess(const std::vector<Service*>& services, const InProcessOptions& options) {
  ServerBuilder builder;
  builder.SetOptions(options.server);
  for (Service* service : services) builder.AddService(service);
  builder.Listen(options.endpoint.empty() ? NewName() : options.endpoint);
  server_ = OrDie(builder.Start());
  endpoint_ = server_->endpoints()[0];
  channel_ = OrDie(Channel::Create(endpoint_, options.channel));
}

InProcess::~InProcess() {
  channel_->Close();
  server_->Shutdown(Deadline::AtNanos(0)).IgnoreError();
}

}  // namespace mi7
