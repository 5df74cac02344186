// ledger_server ENDPOINT LEDGER: serves until it is told to stop by a byte or the end of its
// standard input, then shuts down in order, which takes until the end of its input where calls of
// hold are in flight. Says "ENDPOINT\n" when it listens. Exits with 0 when no call was cut off.

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "rpc/server.h"
#include "tests/restart/ledger.mi7.h"
#include "tests/restart/ledger_file.h"

namespace mi7::restart {
namespace {

class LedgerImpl final : public LedgerService {
 public:
  explicit LedgerImpl(const std::string& path) : file_(path) {}
  ~LedgerImpl() override {
    {
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
    }
    thread_.join();
  }

  Reply Inline(ServerContext& context, Entry::Reader params, Done::Builder results) override {
    Write(context, params.getNumber(), results);
    return absl::OkStatus();
  }
  Reply Late(ServerContext& context, Entry::Reader params, Done::Builder results) override {
    return WriteLate(context, params.getNumber(), results);
  }
  Reply Large(ServerContext& context, Ledger::LargeParams::Reader params,
              Done::Builder results) override {
    return WriteLate(context, params.getNumber(), results);
  }
  Reply Bulk(ServerContext& context, Ledger::BulkParams::Reader params,
             Done::Builder results) override {
    return WriteLate(context, params.getNumber(), results);
  }
  Reply Once(ServerContext& context, Entry::Reader params, Done::Builder results) override {
    return WriteLate(context, params.getNumber(), results);
  }
  Reply Hold(ServerContext& context, Entry::Reader params, Done::Builder results) override {
    Write(context, params.getNumber(), results);
    absl::MutexLock lock(&mutex_);
    if (released_) return absl::OkStatus();
    held_.push_back(context.Defer());
    return Reply::Later();
  }
  // Answers the calls of hold, and further ones at once.
  void Release() {
    std::vector<DeferredCall> held;
    {
      absl::MutexLock lock(&mutex_);
      released_ = true;
      held.swap(held_);
    }
    for (DeferredCall& call : held) call.Finish(absl::OkStatus());
  }
  Reply Note(ServerContext&, Entry::Reader params) override {
    file_.Append(params.getNumber());
    return absl::OkStatus();
  }

  Reply List(ServerContext& context, Ledger::ListParams::Reader params,
             StreamWriter<Entry> writer) override {
    const uint64_t number = params.getNumber();
    const uint32_t count = params.getCount();
    file_.Append(number);
    for (uint32_t i = 0; i < count; ++i) {
      auto message = writer.NewMessage();
      message->setNumber(number + i);
      message->setAttempt(static_cast<uint32_t>(context.attempt()));
      if (absl::Status written = co_await writer.Write(std::move(message)); !written.ok()) {
        co_return written;
      }
    }
    co_return absl::OkStatus();
  }

  Reply Sum(ServerContext&, StreamReader<Entry> reader,
            Ledger::SumResults::Builder results) override {
    uint64_t sum = 0;
    for (bool first = true;; first = false) {
      auto message = co_await reader.Read();
      if (!message.ok()) co_return message.status();
      if (!*message) break;
      if (first) file_.Append((*message)->getNumber());
      sum += (*message)->getNumber();
    }
    results.setSum(sum);
    co_return absl::OkStatus();
  }

  Reply Chat(ServerContext& context, StreamReader<Entry> reader,
             StreamWriter<Entry> writer) override {
    for (bool first = true;; first = false) {
      auto message = co_await reader.Read();
      if (!message.ok()) co_return message.status();
      if (!*message) co_return absl::OkStatus();
      const uint64_t number = (*message)->getNumber();
      if (first) file_.Append(number);
      auto back = writer.NewMessage();
      back->setNumber(number);
      back->setAttempt(static_cast<uint32_t>(context.attempt()));
      if (absl::Status written = co_await writer.Write(std::move(back)); !written.ok()) {
        co_return written;
      }
    }
  }

 private:
  void Write(const ServerContext& context, uint64_t number, Done::Builder results) {
    file_.Append(number);
    results.setNumber(number);
    results.setAttempt(static_cast<uint32_t>(context.attempt()));
    results.setServer(::getpid());
  }
  Reply WriteLate(ServerContext& context, uint64_t number, Done::Builder results) {
    Write(context, number, results);
    absl::MutexLock lock(&mutex_);
    late_.push_back(context.Defer());
    return Reply::Later();
  }
  // Answers what came in the last two milliseconds, together.
  void AnswerLate() {
    absl::MutexLock lock(&mutex_);
    const auto stopped = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return stopped_; };
    while (!stopped_) {
      mutex_.AwaitWithTimeout(absl::Condition(&stopped), absl::Milliseconds(2));
      std::vector<DeferredCall> late = std::exchange(late_, {});
      mutex_.Unlock();
      for (DeferredCall& call : late) call.Finish(absl::OkStatus());
      mutex_.Lock();
    }
  }

  LedgerFile file_;
  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool released_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<DeferredCall> late_ ABSL_GUARDED_BY(mutex_);
  std::vector<DeferredCall> held_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_{[this] { AnswerLate(); }};
};

int Serve(const std::string& endpoint, const std::string& ledger) {
  LedgerImpl service(ledger);
  ServerOptions options;
  options.take_over = true;
  absl::StatusOr<std::unique_ptr<Server>> server =
      ServerBuilder().SetOptions(options).AddService(&service).Listen(endpoint).Start();
  if (!server.ok()) {
    std::fprintf(stderr, "ledger_server: %s\n", server.status().ToString().c_str());
    return 2;
  }
  std::printf("%s\n", (*server)->endpoints()[0].c_str());
  std::fflush(stdout);
  char told;
  static_cast<void>(!::read(STDIN_FILENO, &told, 1));
  std::thread releasing([&service] {
    char none;
    static_cast<void>(!::read(STDIN_FILENO, &none, 1));
    service.Release();
  });
  const absl::Status shut_down = (*server)->Shutdown(Deadline::After(absl::Seconds(30)));
  releasing.join();
  if (shut_down.ok()) return 0;
  std::fprintf(stderr, "ledger_server: %s\n", shut_down.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace mi7::restart

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  return mi7::restart::Serve(argv[1], argv[2]);
}
