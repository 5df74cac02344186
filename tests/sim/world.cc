#include "tests/sim/world.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/deadline.h"
#include "transport/fault/scripted_connection.h"

namespace mi7::sim {
namespace {

// Everything that reads the time is on this thread.
int64_t now_ns = 0;
int64_t Now() { return now_ns; }

}  // namespace

using transport::fault::Fate;

// What happens on one connection.
class World::Line final : public transport::fault::Script {
 public:
  Line(World& world, uint64_t lose_at, uint64_t silent_from)
      : world_(world), lose_at_(lose_at), silent_from_(silent_from) {}

  Fate FateOf(transport::fault::Way way, const transport::FrameHeader& header) override {
    ++frames_;
    world_.Note(frames_ * 64 + static_cast<uint64_t>(header.type) * 2 + static_cast<uint64_t>(way));
    Fate fate;
    if (frames_ >= silent_from_ && (silent_ || !world_.calm_)) {
      silent_ = world_.silenced_ = world_.troubled_ = true;
      fate.kind = Fate::Kind::kDrop;
    }
    if (world_.calm_) return fate;
    if (frames_ == lose_at_) {
      world_.troubled_ = true;
      fate.kind = Fate::Kind::kLose;
    }
    if (world_.Chance(world_.late_percent_)) fate.delay = world_.DrawTime(world_.late_max_);
    return fate;
  }

 private:
  World& world_;
  const uint64_t lose_at_;
  const uint64_t silent_from_;
  bool silent_ = false;
  uint64_t frames_ = 0;
};

World::World(uint64_t seed) : random_(seed) {
  now_ns = 1'000'000'000'000;
  clock_internal::fake_clock.store(&Now, std::memory_order_release);
  // A part of the seeds each has one kind of weather only, where less hides what goes wrong.
  const auto percent = [this](uint64_t max) {
    return Chance(50) ? 0 : static_cast<int>(Draw(max + 1));
  };
  refuse_percent_ = percent(30);
  late_percent_ = percent(100);
  lose_percent_ = percent(60);
  silent_percent_ = percent(30);
  late_max_ = DrawTime(absl::Milliseconds(50));
}

World::~World() {
  planned_.clear();
  loops_.clear();
  clock_internal::fake_clock.store(nullptr, std::memory_order_release);
}

transport::EventLoop* World::NewLoop() {
  loops_.push_back(transport::EventLoop::CreateManual());
  return loops_.back().get();
}

void World::After(absl::Duration delay, absl::AnyInvocable<void()> action) {
  planned_.emplace(now_ns + absl::ToInt64Nanoseconds(delay), std::move(action));
}

void World::BeBusy(absl::Duration time) {
  now_ns += absl::ToInt64Nanoseconds(time);
  busy_ += time;
}

void World::Note(uint64_t what) {
  // FNV-1a, of what and when.
  for (const uint64_t part : {what, static_cast<uint64_t>(now_ns)}) {
    trace_ = (trace_ ^ part) * 0x100000001b3;
  }
}

bool World::RunPlanned() {
  if (planned_.empty() || planned_.begin()->first > now_ns) return false;
  absl::AnyInvocable<void()> action = std::move(planned_.begin()->second);
  planned_.erase(planned_.begin());
  action();
  return true;
}

bool World::Step() {
  ++steps_;
  const size_t count = loops_.size() + 1;
  const size_t first = Draw(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t turn = (first + i) % count;
    if (turn == loops_.size() ? RunPlanned() : loops_[turn]->RunOne()) return true;
  }
  int64_t next_ns =
      planned_.empty() ? std::numeric_limits<int64_t>::max() : planned_.begin()->first;
  for (const auto& loop : loops_) next_ns = std::min(next_ns, loop->next_timer().at_ns());
  if (next_ns == std::numeric_limits<int64_t>::max()) return false;
  MI7_CHECK(next_ns > now_ns, "what was due has been run");
  now_ns = next_ns;
  return true;
}

bool World::RunUntil(absl::Duration limit, const std::function<bool()>& done) {
  constexpr uint64_t kStepsMax = 1'000'000;  // far more than any seed takes
  const int64_t end_ns = now_ns + absl::ToInt64Nanoseconds(limit);
  const uint64_t first = steps_;
  while (!done()) {
    if (now_ns >= end_ns || steps_ - first > kStepsMax || !Step()) return done();
  }
  return true;
}

absl::StatusOr<std::shared_ptr<transport::Connection>> World::Decorate(
    std::shared_ptr<transport::Connection> inner, transport::EventLoop* loop) {
  if (!calm_ && Chance(refuse_percent_)) {
    return absl::UnavailableError("refused, as the seed has it");
  }
  const uint64_t never = std::numeric_limits<uint64_t>::max();
  const uint64_t lose_at = Chance(lose_percent_) ? 1 + Draw(60) : never;
  const uint64_t silent_from = Chance(silent_percent_) ? 1 + Draw(60) : never;
  connections_.push_back(inner);
  return transport::fault::Scripted(std::move(inner), loop,
                                    std::make_shared<Line>(*this, lose_at, silent_from));
}

size_t World::connections() const {
  return static_cast<size_t>(
      std::count_if(connections_.begin(), connections_.end(),
                    [](const auto& connection) { return !connection.expired(); }));
}

}  // namespace mi7::sim
