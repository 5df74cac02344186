// Handlers of streams whose coroutines ask to be stopped when their callers give up.

#include <atomic>
#include <utility>

#include "absl/synchronization/notification.h"
#include "tests/conformance/call/stream_conformance.h"

namespace mi7::conformance {
namespace {

struct NoteEnd {
  absl::Notification* ended;
  ~NoteEnd() { ended->Notify(); }
};

TEST_P(StreamTest, CoroutineThatAsksForItStopsInARead) {
  absl::Notification waits, freed;
  std::atomic<bool> went_on{false};
  feed_.on_chat = [&](ServerContext& context, StreamReader<Item> reader,
                      StreamWriter<Item>) -> Reply {
    co_await context.StopWhenCancelled();
    const NoteEnd end{&freed};
    for (;;) {
      const ItemRead read = co_await reader.Read();
      if (!read.ok() || !*read) break;
      waits.Notify();
    }
    went_on = true;
    co_return absl::OkStatus();
  };
  Start();
  {
    auto chat = stub().Chat();
    ASSERT_THAT(chat.writer().Write(NewItem(chat.writer(), 1)).Wait(), IsOk());
    ASSERT_TRUE(Happens(waits));
  }  // dropped
  EXPECT_TRUE(Happens(freed));
  EXPECT_FALSE(went_on);
  server_ = nullptr;  // no handler goes on
}

}  // namespace
}  // namespace mi7::conformance
