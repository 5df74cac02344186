// A message that comes at the last moment, after a thread has looked for it and before the thread
// has declared that it sleeps: who sends it wakes nobody, so the thread looks once more.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "transport/completion.h"
#include "transport/shm/shm_connection.h"
#include "transport/shm/testing.h"
#include "transport/stream/testing.h"

namespace mi7::transport::shm {
namespace {

using transport::testing::MakeMessage;
using transport::testing::NewLoop;
using transport::testing::Recorder;

// What this thread does when it looks at the clock the next time.
thread_local std::function<void()> at_next_look;

int64_t NanosOfWhoLooks() {
  if (at_next_look) std::exchange(at_next_look, nullptr)();
  return SystemNanos();
}

// The system's time, at which threads do something.
class WatchedClock {
 public:
  WatchedClock() { clock_internal::fake_clock.store(&NanosOfWhoLooks, std::memory_order_release); }
  ~WatchedClock() { clock_internal::fake_clock.store(nullptr, std::memory_order_release); }
};

TEST(LastMomentTest, MessageThatComesWhileAThreadGoesToSleepIsSeen) {
  const WatchedClock clock;
  const auto client_loop = NewLoop(), server_loop = NewLoop();
  auto [client, server] = ConnectPair(client_loop.get(), server_loop.get(), {});
  const auto at_client = std::make_shared<Recorder>(), at_server = std::make_shared<Recorder>();
  std::atomic<Completion*> waiter{nullptr};
  at_client->set_hook([&waiter](IncomingMessage) {
    if (Completion* const waits = waiter.exchange(nullptr); waits != nullptr) waits->Complete();
  });
  client->Start(at_client);
  server->Start(at_server);
  const auto send = [&server = server] {
    MI7_CHECK(server->Send(MakeMessage(FrameType::kReturn, 1, 8)).ok(), "the connection is open");
  };

  // The last thing that a thread which does not poll for long does before it declares is to look at
  // the clock. Where the loop has the token just then it looks earlier, so this is repeated.
  bool came = true;
  for (int round = 1; came && round <= 20; ++round) {
    std::thread caller([&, &client = client] {
      // After a long wait the next one does not poll for long.
      Completion never;
      EXPECT_FALSE(client->Await(never, Deadline::After(absl::Milliseconds(2))));
      Completion comes;
      waiter = &comes;
      at_next_look = send;
      EXPECT_TRUE(client->Await(comes, Deadline::Infinite()));
    });
    came = at_client->WaitMessages(round);
    EXPECT_TRUE(came) << "round " << round;
    if (!came) send();  // wakes it
    caller.join();
  }

  client->Close(absl::OkStatus());
  EXPECT_FALSE(absl::IsDeadlineExceeded(at_client->WaitClosed()));
  EXPECT_FALSE(absl::IsDeadlineExceeded(at_server->WaitClosed()));
}

}  // namespace
}  // namespace mi7::transport::shm
