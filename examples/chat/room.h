#pragma once

// The room: a service with one coroutine for each direction of each stream.
//
// What is said goes from the speaker's coroutine into the queues of all others. Each queue is read
// by the coroutine that writes to its member's stream. A queue is bounded, and who finds one full
// goes on: a member that does not read delays nobody, and is told how much it has missed.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/detached_task.h"
#include "channels/channel.h"
#include "examples/chat/chat.mi7.h"
#include "transport/event_loop.h"

namespace chat {

inline constexpr size_t kMembersMax = 1000;
// What is kept for a member that reads slowly.
inline constexpr size_t kUnreadMax = 64;

// What a member is told.
struct News {
  enum class Kind { kJoined, kLeft, kSaid } kind;
  std::string name;
  std::string text = {};
  uint32_t missed_before = 0;
};

// Must outlive the server that it is added to.
class RoomImpl final : public RoomService {
 public:
  // `loop` runs what waits for news, and outlives the server.
  explicit RoomImpl(mi7::transport::EventLoop* loop) : loop_(loop) {}

  // Ends the streams of all members with UNAVAILABLE, and lets nobody in. Before Server::Shutdown,
  // which would wait for them.
  void Close();

  mi7::Reply Join(mi7::ServerContext& context, mi7::StreamReader<ToRoom> reader,
                  mi7::StreamWriter<FromRoom> writer) override;
  mi7::Reply Who(mi7::ServerContext& context, Room::WhoParams::Reader params,
                 Room::WhoResults::Builder results) override;

 private:
  // One in the room, or one that was: its coroutines keep it.
  struct Member {
    std::string name;
    mi7::channels::Sender<News> news;      // closed when the member is to go
    mi7::channels::Receiver<News> unread;  // for the coroutine that writes
    uint32_t missed = 0;                   // since the last news; the room's mutex guards it
    absl::Status why;                      // it has to go; written before `news` is closed
  };

  // The members before it are put in `others`.
  absl::StatusOr<std::shared_ptr<Member>> Enter(absl::string_view name,
                                                std::vector<std::string>& others);
  // Reads what the member says until it goes, and lets it go.
  mi7::DetachedTask Listen(std::shared_ptr<Member> member, mi7::StreamReader<ToRoom> reader);
  void Leave(Member& member, absl::Status why);
  void TellOthers(const Member& from, const News& news) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mi7::transport::EventLoop* const loop_;
  absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<Member>, std::less<>> members_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace chat
