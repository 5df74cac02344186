#pragma once

// Processes that send and receive and are killed or stopped, and what they write down about each
// message in memory that outlives them.

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/deadline.h"
#include "gtest/gtest.h"
#include "transport/slot_pipe/slot_pipe.h"
#include "transport/slot_pipe/testing.h"

namespace mi7 {

using slot_pipe_internal::Possessions;
using slot_pipe_internal::TestDirectory;

inline constexpr uint32_t kMessages = 64'000'000;

// Shared by all processes of a test.
struct History {
  std::atomic<uint32_t> next;  // the next message to send
  std::atomic<bool> stop;
  std::atomic<bool> held;  // by a child that is about to be killed
  // For each message: sent 1: Send begun; 2: returned. And how often a Fetch and a Release of it
  // began and returned.
  struct Entry {
    std::atomic<uint8_t> sent;
    std::atomic<uint8_t> fetched;
    std::atomic<uint8_t> releasing;
    std::atomic<uint8_t> released;
    std::atomic<uint8_t> unmarked;     // deliveries with attempt 1, since it was redriven last
    std::atomic<uint8_t> dead_letter;  // how often it was found among the dead letters
  };
  Entry entries[kMessages];
};

// What a process of a test ends with when it has found something wrong.
enum Fault {
  kNotConnected = 1,
  kSendFailed,
  kFetchFailed,
  kGhost,
  kReleaseFailed,
  kReleasedBefore,  // a message came again after its Release had returned OK
  kLeaked,          // a descriptor or a mapping
  kReturnFailed,
};

class KillTest : public testing::Test {
 protected:
  KillTest() {
    void* memory = ::mmap(nullptr, sizeof(History), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MI7_CHECK(memory != MAP_FAILED, "there is memory for the history");
    history_ = static_cast<History*>(memory);
    before_ = Possessions::Count();
  }
  ~KillTest() override {
    for (const pid_t child : children_) Kill(child);
    EXPECT_EQ(directory_.Files(), std::vector<std::string>{"kill"}) << "a file is left";
    EXPECT_EQ(Possessions::Count(), before_) << "leaked";
    ::munmap(history_, sizeof(History));
  }

  pid_t Start(const std::function<void(SlotPipe&)>& work) {
    // What a child has at its birth is what its parent has, which is found out once: it takes
    // longer than all else in the life of most.
    if (at_birth_.descriptors == 0) at_birth_ = Possessions::Count();
    const Possessions before = at_birth_;
    const pid_t child = ::fork();
    if (child == 0) {
      auto pipe = SlotPipe::Connect("kill");
      if (!pipe.ok()) {
        std::cerr << pipe.status() << "\n";
        ::_exit(kNotConnected);
      }
      work(**pipe);
      pipe->reset();
      // It has lived through the deaths of others.
      ::_exit(Possessions::Count() == before ? 0 : kLeaked);
    }
    children_.push_back(child);
    return child;
  }
  // Lets all children come to their end.
  void Stop() {
    history_->stop = true;
    for (const pid_t child : children_) {
      int status;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    }
    children_.clear();
  }
  // Nobody ends before that by itself; one that has found a fault does.
  void Kill(pid_t child) {
    ::kill(child, SIGKILL);
    Bury(child);
  }
  void Bury(pid_t child) {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        << "it has ended by itself, with status " << WEXITSTATUS(status) << ": see Fault";
  }

  // So that a kill often meets somebody who has a slot. Off the CPUs, which are needed for dying
  // and being born, of which a kill is made. Nobody waits for anything by it.
  static void Work() { Pause(50); }
  static void Pause(uint32_t us) {
    const timespec time{0, static_cast<long>(us) * 1000};
    ::ppoll(nullptr, 0, &time, nullptr);
  }

  void Produce(SlotPipe& pipe) {
    while (!history_->stop.load()) {
      auto slot = pipe.Hold(Deadline::After(absl::Milliseconds(100)));
      if (!slot.ok()) continue;
      const uint32_t message = history_->next.fetch_add(1);
      if (message >= kMessages) return;
      std::memcpy(slot->data(), &message, sizeof(message));
      Work();
      history_->entries[message].sent = 1;
      if (!slot->Send(sizeof(message)).ok()) ::_exit(kSendFailed);
      history_->entries[message].sent = 2;
    }
  }

  void Consume(SlotPipe& pipe, bool until_empty) {
    for (uint32_t round = 0;; ++round) {
      auto slot = pipe.Fetch(Deadline::After(absl::Milliseconds(until_empty ? 200 : 50)));
      // They take the slots of messages.
      if (until_empty || !slot.ok() || round % 8 == 0) TakeDeadLetters(pipe, until_empty);
      if (!slot.ok()) {
        if (!absl::IsDeadlineExceeded(slot.status())) ::_exit(kFetchFailed);
        if (until_empty || history_->stop.load()) return;
        continue;
      }
      const uint32_t message = NumberOf(*slot);
      History::Entry& entry = history_->entries[message];
      if (slot->attempt() == 1) ++entry.unmarked;
      ++entry.fetched;
      if (!until_empty) Work();
      if (!until_empty && (message % 16 == 7 || (message + slot->attempt()) % 4 == 0)) {
        if (!slot->Return().ok()) ::_exit(kReturnFailed);
        continue;
      }
      ReleaseOne(*slot, entry);
    }
  }

  uint32_t NumberOf(const ReadSlot& slot) {
    uint32_t message = kMessages;
    std::memcpy(&message, slot.data(), sizeof(message));
    if (message >= kMessages) ::_exit(kGhost);
    // At once: whoever has found it may be killed before it is released a second time.
    if (history_->entries[message].released != 0) ::_exit(kReleasedBefore);
    return message;
  }

  static void ReleaseOne(ReadSlot& slot, History::Entry& entry) {
    ++entry.releasing;
    if (!slot.Release().ok()) ::_exit(kReleaseFailed);
    ++entry.released;
  }

  // Every other one goes back into the pipe, once or twice, unless it is to be `emptied`. Looks at
  // them before, which changes nothing.
  void TakeDeadLetters(SlotPipe& pipe, bool emptied) {
    for (const ReadSlot& letter : pipe.DeadLetters()) NumberOf(letter);
    for (;;) {
      auto dead = pipe.TryFetchDeadLetter();
      if (!dead.ok()) return;
      const uint32_t message = NumberOf(*dead);
      History::Entry& entry = history_->entries[message];
      ++entry.dead_letter;
      if (emptied || message / 16 % 2 == 0 || entry.dead_letter > 2) {
        ReleaseOne(*dead, entry);
      } else {
        entry.unmarked = 0;  // its attempts are forgotten
        if (!dead->Redrive().ok()) ::_exit(kReturnFailed);
      }
    }
  }

  TestDirectory directory_;
  History* history_;
  Possessions before_;
  Possessions at_birth_;
  std::vector<pid_t> children_;
};

}  // namespace mi7
