// A death at every single instruction of joining, holding, sending, fetching, returning, releasing,
// recovering and leaving, and of what is done with dead letters.
//
// What a process leaves that is killed at an instruction is the shared memory of that instant, and
// free locks. So the child is stepped once from its beginning to its end, and after each
// instruction that has changed the pipe or the ledger, a copy of the pipe, on which nobody holds a
// lock, is joined, recovered and audited; and a second copy, on which the locks are held that the
// child holds at that instant, as if it had been stopped there. After one that has changed the
// locks alone, the second copy is. An instruction that changed none of them leaves what the one
// before it left. Then some children are killed for real, at instructions among all.
//
//   every_instruction [--long | --can_trace]    (--long also by MI7_LONG in the environment)
//
// Exit status 0 when all audits were well, 1 when one failed, which is printed, or too few were
// made; where ptrace is not permitted 0 with a NOTICE, 77 with --can_trace. This is a program
// and no test by itself, so that it can be linked with mutants of the protocol, which it must find.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "transport/slot_pipe/crash/ledger.h"
#include "transport/slot_pipe/crash/scenarios.h"
#include "transport/slot_pipe/crash/stepper.h"
#include "transport/slot_pipe/testing.h"

namespace mi7::slot_pipe_internal {
namespace {

// Exit status of --can_trace where it cannot.
constexpr int kNotPermitted = 77;
// The least number of different states that a life of a child leaves, in joining and leaving alone.
constexpr uint64_t kStatesMin = 5;

// The pipe that the child works on, and kCopy, the one that is audited.
constexpr char kCopy[] = "copy";

// Whether somebody holds the lock of each place for a participant.
using Places = std::array<bool, kOptions.participants>;

// What is left of a pipe and its history at some instant.
struct Image {
  std::vector<char> pipe;
  std::vector<char> ledger;
};

class Runner {
 public:
  Runner() {
    void* memory =
        ::mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MI7_CHECK(memory != MAP_FAILED, "there is memory for the ledger");
    ledger_ = static_cast<Ledger*>(memory);
    memory = ::mmap(nullptr, sizeof(std::atomic<pid_t>), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MI7_CHECK(memory != MAP_FAILED, "there is memory for a number");
    child_ = static_cast<std::atomic<pid_t>*>(memory);
  }

  // A fresh pipe after scenario.before.
  Image Begin(const Scenario& scenario) {
    SlotPipe::Remove(kPipe, true).IgnoreError();
    std::memset(static_cast<void*>(ledger_), 0, sizeof(Ledger));
    auto pipe = SlotPipe::Create(kPipe, kOptions);
    MI7_CHECK(pipe.ok(), "a pipe can be created");
    scenario.before(**pipe, *ledger_);
    pipe->reset();
    Image image{ReadFile(kPipe), LedgerBytes()};
    // Once here, so that the child need not bind each function of a shared library when it first
    // calls it: most of its instructions would be the dynamic linker's.
    scenario.act(*ledger_);
    MI7_CHECK(SlotPipe::Remove(kPipe).ok(), "a pipe can be removed");
    return image;
  }

  // Makes `image` the pipe that the child will find.
  void Restore(const Image& image) {
    WriteFile(kPipe, image.pipe);
    std::memcpy(static_cast<void*>(ledger_), image.ledger.data(), sizeof(Ledger));
  }

  // Joins a copy of `image` and audits it, as for each of `others`, of whom one that is stopped
  // holds the locks of `places`. False, after saying so, when something is wrong.
  bool Check(const Image& image, std::initializer_list<Other> others, const Places& places,
             const char* what, uint64_t step) {
    auto ledger = std::make_unique<Ledger>();
    std::memcpy(static_cast<void*>(ledger.get()), image.ledger.data(), sizeof(Ledger));
    for (const Other other : others) {
      WriteFile(kCopy, image.pipe);
      const int lock = other == Other::kStopped ? Lock(kCopy, places) : -1;
      std::string wrong;
      {
        const auto before = SlotPipe::Inspect(kCopy);
        auto pipe = SlotPipe::Connect(kCopy);
        wrong = pipe.ok() ? Audit(**pipe, *ledger, other) : pipe.status().ToString();
        if (other == Other::kStopped && wrong.empty()) {
          uint64_t dead = 0;
          for (const PipeParticipant& one : before->participants) {
            if (one.alive) continue;
            ++dead;
            if (one.pid == static_cast<uint32_t>(child_->load())) wrong = "it counts as dead";
          }
          if ((*pipe)->Status().recovered_participants > before->recovered_participants + dead) {
            wrong = "it was taken for dead";
          }
        }
      }
      if (lock >= 0) ::close(lock);
      ++audits_;
      if (wrong.empty()) continue;
      std::printf("%s after instruction %llu of '%s': %s\n",
                  other == Other::kDead ? "killed" : "stopped",
                  static_cast<unsigned long long>(step), what, wrong.c_str());
      return false;
    }
    return true;
  }

  // Steps through scenario.act from `begin` on and audits every state it leaves. Appends the
  // distinct states to `images`, if given.
  bool Every(const Scenario& scenario, const Image& begin, std::vector<Image>* images) {
    Restore(begin);
    const int fd = ::open(directory_.File(kPipe).c_str(), O_RDWR | O_CLOEXEC);
    MI7_CHECK(fd >= 0, "the pipe has a file");
    void* shared = ::mmap(nullptr, begin.pipe.size(), PROT_READ, MAP_SHARED, fd, 0);
    MI7_CHECK(shared != MAP_FAILED, "the file can be mapped");
    Image last = begin;
    Places places = LockedPlaces(fd);
    bool well = true;
    const auto after = [&](uint64_t step) {
      const bool same = std::memcmp(shared, last.pipe.data(), last.pipe.size()) == 0 &&
                        std::memcmp(ledger_, last.ledger.data(), sizeof(Ledger)) == 0;
      const Places before = std::exchange(places, LockedPlaces(fd));
      if (same && places == before) return true;
      if (same) {
        ++changes_of_locks_;
        return well = Check(last, {Other::kStopped}, places, scenario.name, step);
      }
      std::memcpy(last.pipe.data(), shared, last.pipe.size());
      last.ledger = LedgerBytes();
      well = Check(last, {Other::kDead, Other::kStopped}, places, scenario.name, step);
      if (images != nullptr) images->push_back(last);
      return well;
    };
    points_ += StepChild([&] { Act(scenario); }, after);
    ::munmap(shared, begin.pipe.size());
    ::close(fd);
    return well;
  }

  // Kills for real after `step` instructions.
  bool KillAt(const Scenario& scenario, const Image& begin, uint64_t step) {
    Restore(begin);
    StepChild([&] { Act(scenario); }, [&](uint64_t at) { return at < step; });
    auto pipe = SlotPipe::Connect(kPipe);
    const std::string wrong =
        pipe.ok() ? Audit(**pipe, *ledger_, Other::kDead) : pipe.status().ToString();
    ++kills_;
    if (wrong.empty()) return true;
    std::printf("really killed after instruction %llu of '%s': %s\n",
                static_cast<unsigned long long>(step), scenario.name, wrong.c_str());
    return false;
  }

  bool Run(bool all) {
    const Possessions possessions = Possessions::Count();
    std::vector<Image> images;
    const Scenario* recover = nullptr;
    for (const Scenario& scenario : Scenarios()) {
      const Image begin = Begin(scenario);
      if (std::strcmp(scenario.name, "recover") == 0) recover = &scenario;
      const uint64_t before = points_;
      const size_t images_before = images.size();
      if (!Every(scenario, begin, &images)) return false;
      const uint64_t steps = points_ - before;
      const uint64_t states = images.size() - images_before;
      std::printf("'%s': %llu instructions, %llu states\n", scenario.name,
                  static_cast<unsigned long long>(steps), static_cast<unsigned long long>(states));
      std::fflush(stdout);
      if (states < kStatesMin) return TooFew("states", states, kStatesMin);
      const uint64_t kills = all ? 100 : 4;
      for (uint64_t i = 1; i <= kills; ++i) {
        if (!KillAt(scenario, begin, steps * i / (kills + 1))) return false;
      }
    }
    // The recoverer of each of those states dies, too; at every instruction.
    const size_t stride = all ? 1 : images.size() / 8 + 1;
    for (size_t i = 0; i < images.size(); i += stride) {
      if (!Every(*recover, images[i], nullptr)) return false;
    }
    if (const Possessions now = Possessions::Count(); now != possessions) {
      std::printf("leaked: %zu descriptors and %zu shared mappings have become %zu and %zu\n",
                  possessions.descriptors, possessions.shared_mappings, now.descriptors,
                  now.shared_mappings);
      return false;
    }
    for (const std::string& name : directory_.Files()) {
      if (name == kPipe || name == kCopy) continue;
      std::printf("left: a file '%s'\n", name.c_str());
      return false;
    }
    std::printf(
        "RELIABILITY: deaths after %llu instructions, %llu states audited, %llu killed for real: "
        "lost 0, "
        "duplicates without mark 0, leaked slots 0\n",
        static_cast<unsigned long long>(points_), static_cast<unsigned long long>(audits_),
        static_cast<unsigned long long>(kills_));
    const uint64_t wanted = all ? 50'000 : 1'500;
    if (points_ < wanted) return TooFew("instructions", points_, wanted);
    // Each of those states was audited twice, dead and stopped; those of their recoverers, too.
    const uint64_t recovered = (images.size() + stride - 1) / stride;
    const uint64_t audits = 2 * (images.size() + recovered * kStatesMin);
    if (audits_ < audits) return TooFew("audits", audits_, audits);
    // Each child locks its place and frees it again, without changing anything else.
    const uint64_t changes = 2 * Scenarios().size();
    if (changes_of_locks_ < changes) return TooFew("locks", changes_of_locks_, changes);
    const uint64_t kills = Scenarios().size() * (all ? 100 : 4);
    if (kills_ != kills) return TooFew("kills", kills_, kills);
    return true;
  }

 private:
  static bool TooFew(const char* what, uint64_t there, uint64_t wanted) {
    std::printf("too few %s: %llu, %llu were wanted\n", what,
                static_cast<unsigned long long>(there), static_cast<unsigned long long>(wanted));
    return false;
  }

  // In the child.
  void Act(const Scenario& scenario) {
    child_->store(::getpid());
    scenario.act(*ledger_);
  }

  std::vector<char> LedgerBytes() const {
    std::vector<char> bytes(sizeof(Ledger));
    std::memcpy(bytes.data(), static_cast<const void*>(ledger_), sizeof(Ledger));
    return bytes;
  }

  std::vector<char> ReadFile(const char* name) const {
    const int fd = ::open(directory_.File(name).c_str(), O_RDONLY | O_CLOEXEC);
    std::vector<char> bytes(static_cast<size_t>(::lseek(fd, 0, SEEK_END)));
    MI7_CHECK(::pread(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
              "a file can be read");
    ::close(fd);
    return bytes;
  }

  static struct flock LockOf(uint32_t place) {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_start = place;
    lock.l_len = 1;
    return lock;
  }

  // Those that somebody holds, which is the child, through another descriptor than `fd`.
  static Places LockedPlaces(int fd) {
    Places places{};
    for (uint32_t place = 0; place < places.size(); ++place) {
      struct flock lock = LockOf(place);
      MI7_CHECK(::fcntl(fd, F_OFD_GETLK, &lock) == 0, "a lock can be looked at");
      places[place] = lock.l_type != F_UNLCK;
    }
    return places;
  }

  // Holds the locks of `places` through a descriptor that is returned.
  int Lock(const char* name, const Places& places) const {
    const int fd = ::open(directory_.File(name).c_str(), O_RDWR | O_CLOEXEC);
    for (uint32_t place = 0; place < places.size(); ++place) {
      struct flock lock = LockOf(place);
      MI7_CHECK(!places[place] || ::fcntl(fd, F_OFD_SETLK, &lock) == 0,
                "nobody holds a lock on the copy");
    }
    return fd;
  }

  void WriteFile(const char* name, const std::vector<char>& bytes) const {
    const int fd = ::open(directory_.File(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    MI7_CHECK(::pwrite(fd, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
              "a file can be written");
    ::close(fd);
  }

  TestDirectory directory_;
  Ledger* ledger_;
  std::atomic<pid_t>* child_;  // who acts
  uint64_t points_ = 0;
  uint64_t audits_ = 0;
  uint64_t changes_of_locks_ = 0;
  uint64_t kills_ = 0;
};

}  // namespace
}  // namespace mi7::slot_pipe_internal

int main(int argc, char** argv) {
  using mi7::slot_pipe_internal::CanTrace;
  using mi7::slot_pipe_internal::kNotPermitted;
  using mi7::slot_pipe_internal::Runner;
  const bool only_asked = argc > 1 && std::strcmp(argv[1], "--can_trace") == 0;
  if (!CanTrace()) return only_asked ? kNotPermitted : 0;
  if (only_asked) return 0;
  const bool all =
      (argc > 1 && std::strcmp(argv[1], "--long") == 0) || std::getenv("MI7_LONG") != nullptr;
  return Runner().Run(all) ? 0 : 1;
}
