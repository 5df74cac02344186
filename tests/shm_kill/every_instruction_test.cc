// A death at every instruction of sending a message, and of receiving and releasing one, over
// shared memory.
//
// For each instruction a process is started, connects (or listens), exchanges messages until
// everything is warm, and is killed with SIGKILL after that many instructions of the window. The
// survivor is this process: it sees the message whole or not at all, hears of the end within 100
// ms, and holds no descriptor and no mapping more than before, which is how slots of its own, or of
// the dead, would be kept.
//
// To the survivor a death is the same as one some instructions later if in between nothing changed
// of what outlives the process: the memory that it shares, and what it asked of the system. So the
// short run dies after each instruction that changed something, found by looking after every one,
// and at others, evenly spread; it says how many. The long run (--long, or MI7_LONG in the
// environment) dies at every single one.
//
//   every_instruction_test [--long]

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/shm_kill/shared.h"
#include "tests/shm_kill/test_main.h"
#include "transport/transports.h"

namespace mi7::shm_kill {
namespace {

using transport::Completion;
using transport::Connection;
using transport::EventLoop;
using transport::FrameType;
using transport::IncomingMessage;
using transport::OutgoingMessage;

// What is stepped through.
enum class Window : uint32_t { kSend, kReceive };

struct Scenario {
  const char* name;
  Window window;
  uint32_t words;       // of the message in the window: few travel in the ring, more in slots
  bool victim_listens;  // else it connects
};
constexpr uint32_t kInRing = 8;
constexpr uint32_t kInSlot = 40;
constexpr uint32_t kInSlots = 520;  // several 4 KiB slots
constexpr Scenario kScenarios[] = {
    {"a client sends in the ring", Window::kSend, kInRing, false},
    {"a server sends in the ring", Window::kSend, kInRing, true},
    {"a client sends in a slot", Window::kSend, kInSlot, false},
    {"a server sends in a slot", Window::kSend, kInSlot, true},
    {"a client sends in several slots", Window::kSend, kInSlots, false},
    {"a client receives from the ring", Window::kReceive, kInRing, false},
    {"a server receives from the ring", Window::kReceive, kInRing, true},
    {"a client receives from a slot", Window::kReceive, kInSlot, false},
    {"a server receives from a slot", Window::kReceive, kInSlot, true},
    {"a client receives from several slots", Window::kReceive, kInSlots, false},
};

// Deaths in each scenario, besides one after each change. The long run has all there are.
constexpr uint64_t kPoints = 160;
// Messages before the one in the window, each of which is answered.
constexpr uint32_t kWarmUp = 12;

uint64_t WordAt(uint32_t number, uint32_t i) {
  return uint64_t{number} * 0x9e3779b97f4a7c15 + uint64_t{i} * 0x100000001b3 + 1;
}

void Fill(OutgoingMessage& message, uint32_t number, uint32_t words) {
  message->header.type = FrameType::kCall;
  message->header.target = transport::TargetKind::kService;
  message->header.call_id = number;
  // What a slot is for; the content is as good as any other.
  auto data = message->getRoot<capnp::AnyPointer>().initAs<capnp::Data>(words * 8);
  // A few words are written inside the window; all of a large message would be most of it.
  for (uint32_t i = 0; i < words; i = i < 8 ? i + 1 : i + words / 16 + 1) {
    const uint64_t word = WordAt(number, i);
    std::memcpy(data.begin() + i * 8, &word, sizeof(word));
  }
}

absl::Status SendMessage(Connection& connection, uint32_t number, uint32_t words) {
  absl::StatusOr<OutgoingMessage> message = connection.Reserve(words * 8);
  if (!message.ok()) return message.status();
  Fill(*message, number, words);
  return connection.Send(*std::move(message));
}

bool IsWhole(const IncomingMessage& message, uint32_t words) {
  const auto segments = message.segments();
  capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments.data(), segments.size()),
                                          {.traversalLimitInWords = 1 << 24});
  const capnp::Data::Reader data = reader.getRoot<capnp::AnyPointer>().getAs<capnp::Data>();
  if (data.size() != words * 8) return false;
  for (uint32_t i = 0; i < words; i = i < 8 ? i + 1 : i + words / 16 + 1) {
    const uint64_t word = WordAt(message.header().call_id, i);
    if (std::memcmp(data.begin() + i * 8, &word, sizeof(word)) != 0) return false;
  }
  return true;
}

transport::TransportOptions Options() {
  transport::TransportOptions options;
  // Processes that spin would keep each other from a busy CPU.
  options.wait = transport::WaitPolicy::kBlock;
  transport::LocalOptions local;
  local.shm.slot_classes = {{4096, 64}};  // so that larger messages take several slots
  options.local = std::make_shared<const transport::LocalOptions>(local);
  return options;
}

transport::Endpoint TheEndpoint(const std::string& name) {
  auto endpoint = transport::Endpoint::Parse(absl::StrCat("shm:", Folder(), "/", name));
  MI7_CHECK(endpoint.ok(), "the endpoint is sound");
  return *endpoint;
}

std::unique_ptr<EventLoop> NewLoop() {
  auto loop = EventLoop::Create({.name = "kill", .wait = transport::WaitPolicy::kBlock});
  MI7_CHECK(loop.ok(), "a loop can be made");
  return *std::move(loop);
}

// One end of connections: what accepts them, or what connects.
class End {
 public:
  End(bool listens, const std::string& name) : endpoint_(TheEndpoint(name)), loop_(NewLoop()) {
    if (!listens) return;
    auto listener = transport::Listen(endpoint_, {loop_.get()}, Options(),
                                      [this](std::shared_ptr<Connection> connection) {
                                        connection->Start(receiver_);
                                        connection_ = std::move(connection);
                                        made_.store(true);
                                      });
    MI7_CHECK(listener.ok(), "it is listened");
    listener_ = *std::move(listener);
  }
  ~End() {
    connection_.reset();
    listener_.reset();
  }

  // Of the next connection. Without one, the connection of the last is forgotten.
  void Expect(std::shared_ptr<transport::Receiver> receiver) {
    connection_.reset();
    made_.store(false);
    receiver_ = std::move(receiver);
  }
  void Connect() {
    transport::Connect(endpoint_, loop_.get(), Options(), Deadline::After(absl::Seconds(20)),
                       [this](absl::StatusOr<std::shared_ptr<Connection>> connection) {
                         MI7_CHECK(connection.ok(), connection.status().ToString().c_str());
                         (*connection)->Start(receiver_);
                         connection_ = *std::move(connection);
                         made_.store(true);
                       });
  }
  bool made() const { return made_.load(); }
  const std::shared_ptr<Connection>& connection() const { return connection_; }
  EventLoop& loop() { return *loop_; }

 private:
  const transport::Endpoint endpoint_;
  const std::unique_ptr<EventLoop> loop_;
  std::shared_ptr<transport::Receiver> receiver_;
  std::shared_ptr<Connection> connection_;
  std::atomic<bool> made_{false};
  std::unique_ptr<transport::Listener> listener_;
};

class EmptyReceiver : public transport::Receiver {
 public:
  void OnRejected(const transport::FrameHeader&, const absl::Status&) override {
    SharedState().board.wrong.fetch_add(1);
  }
  void OnWritable() override {}
  void OnUnsent(const transport::FrameHeader&, const absl::Status&) override {}
};

// --- The process that is killed

class Victim final : public EmptyReceiver {
 public:
  explicit Victim(const Scenario& scenario) : scenario_(scenario), thread_(::gettid()) {}

  void OnMessage(IncomingMessage&& message) override {
    Board& board = SharedState().board;
    if (message.header().call_id == kWarmUp) {
      // The one in the window.
      board.received.fetch_add(1);
      message.reset();
      Zygote::StepToHere();
      return;
    }
    if (scenario_.window == Window::kReceive && stage_ == kWarmUp) {
      if (::gettid() != thread_) {
        // The loop was faster; again.
        again_.store(true);
      } else {
        // Nobody else can read while we are in here.
        board.steps.store(2);
        MI7_CHECK(Happens([&] { return board.steps.load() == 3; }), "the survivor sends");
        Zygote::StepFromHere();
        // From here on: the release of this message; the next one, its release.
      }
    }
    message.reset();
    completion_.Complete();
  }
  void OnClosed(const absl::Status&) override { ::_exit(3); }

  [[noreturn]] void Live() {
    auto& end =
        *new End(scenario_.victim_listens, scenario_.victim_listens ? "victim" : "survivor");
    end.Expect(std::shared_ptr<Receiver>(this, [](Receiver*) {}));
    SharedState().board.ready.store(true);
    if (!scenario_.victim_listens) end.Connect();
    MI7_CHECK(Happens([&] { return end.made(); }), "the survivor connects");
    Connection& connection = *end.connection();
    for (stage_ = 0; stage_ < kWarmUp; ++stage_) Ask(connection, stage_);
    Board& board = SharedState().board;
    if (scenario_.window == Window::kSend) {
      Zygote::StepFromHere();
      if (SendMessage(connection, kWarmUp, scenario_.words).ok()) board.sent.fetch_add(1);
      Zygote::StepToHere();
    } else {
      do {
        again_.store(false);
        Ask(connection, 0);
      } while (again_.load());
      // The message in the window comes to the thread that waits.
      Completion never;
      connection.Await(never, Deadline::After(absl::Seconds(20)));
    }
    ::pause();
    ::_exit(4);
  }

 private:
  void Ask(Connection& connection, uint32_t number) {
    completion_.Reset();
    MI7_CHECK(SendMessage(connection, number, scenario_.words).ok(), "a message can be sent");
    MI7_CHECK(connection.Await(completion_, Deadline::After(absl::Seconds(20))), "it is answered");
  }

  const Scenario& scenario_;
  const pid_t thread_;
  uint32_t stage_ = 0;
  std::atomic<bool> again_{false};
  Completion completion_;
};

// --- The survivor

class Survivor final : public EmptyReceiver {
 public:
  explicit Survivor(const Scenario& scenario) : scenario_(scenario) {}

  void OnMessage(IncomingMessage&& message) override {
    if (!IsWhole(message, scenario_.words)) wrong.fetch_add(1);
    const uint32_t number = message.header().call_id;
    if (number == kWarmUp) {
      in_window.fetch_add(1);
    } else {
      const auto connection = end->connection();
      if (!SendMessage(*connection, number, scenario_.words).ok()) wrong.fetch_add(1);
    }
  }
  void OnClosed(const absl::Status& why) override {
    why_ok = why.ok();
    closed_at_ns.store(MonotonicNanos());
  }

  End* end = nullptr;
  std::atomic<uint32_t> wrong{0};
  std::atomic<uint32_t> in_window{0};
  bool why_ok = false;
  std::atomic<int64_t> closed_at_ns{0};

 private:
  const Scenario& scenario_;
};

}  // namespace

void Live(const Order& order) { (new Victim(kScenarios[order.role]))->Live(); }

namespace {

class EveryInstruction : public testing::TestWithParam<uint32_t> {};

// Of all scenarios.
uint64_t all_points = 0;
uint64_t all_changes = 0;
uint64_t all_instructions = 0;

// Says what they come to, so that the suite does not become smaller unnoticed.
class Totals : public testing::Environment {
 public:
  void TearDown() override {
    if (all_points == 0) return;
    std::printf(
        "RELIABILITY: deaths at %llu points, all %llu changes among %llu instructions; lost 0, "
        "twice 0, left 0\n",
        static_cast<unsigned long long>(all_points), static_cast<unsigned long long>(all_changes),
        static_cast<unsigned long long>(all_instructions));
    if (testing::GTEST_FLAG(filter) == "*") {
      EXPECT_GE(all_points, 1500u);
    }
  }
};
testing::Environment* const totals = testing::AddGlobalTestEnvironment(new Totals);

// One death after `instructions`. Whether the window was over, and how many it took; `wrong` says
// what is.
Stepped Die(uint32_t index, uint64_t instructions, End& end, Notices& notices, std::string& wrong,
            uint32_t variant = 0) {
  const Scenario& scenario = kScenarios[index];
  Board& board = SharedState().board;
  board.ready = false;
  board.steps = 0;
  board.sent = board.received = board.wrong = 0;
  auto survivor = std::make_shared<Survivor>(scenario);
  survivor->end = &end;
  end.Expect(survivor);

  // What this process has to do meanwhile: the zygote answers when the victim is dead.
  std::atomic<bool> over{false};
  end.loop().Post([&] {
    if (scenario.victim_listens) {
      MI7_CHECK(Happens([&] { return board.ready.load(); }), "the victim listens");
      end.Connect();
    }
    over.store(true);
  });
  std::thread sender([&] {
    if (scenario.window != Window::kReceive) return;
    MI7_CHECK(Happens([&] { return board.steps.load() == 2; }), "the victim waits");
    if (!SendMessage(*end.connection(), kWarmUp, scenario.words).ok()) survivor->wrong.fetch_add(1);
    board.steps.store(3);
  });
  const Stepped stepped = TheZygote().Step({.role = index, .variant = variant}, instructions);
  sender.join();
  if (!Happens([&] { return survivor->closed_at_ns.load() != 0 && over.load(); })) {
    wrong = "the end was never noticed";
    return stepped;
  }
  notices.Add(survivor->closed_at_ns.load() - board.killed_at_ns.load());
  const uint32_t came = survivor->in_window.load();
  if (!stepped.well) wrong = "the victim ended by itself";
  if (!survivor->why_ok) wrong = "the connection did not end in order";
  if (survivor->wrong.load() + board.wrong.load() != 0) wrong = "a message was not whole";
  if (came > 1 || board.received.load() > 1) wrong = "the message came twice";
  if (came < board.sent.load()) wrong = "a message that was sent is lost";
  if (stepped.over && came + board.received.load() != 1) wrong = "the message is lost";
  end.Expect(nullptr);
  return stepped;
}

TEST_P(EveryInstruction, KillsLoseNothingAndLeaveNothing) {
  if (!TheZygote().CanTrace()) GTEST_SKIP() << "ptrace is not permitted";
  const Scenario& scenario = kScenarios[GetParam()];
  End end(!scenario.victim_listens, scenario.victim_listens ? "victim" : "survivor");
  Notices notices;
  std::string wrong;
  // The whole window first: its length, and what this process holds between two connections.
  uint64_t length = 0;
  for (int i = 0; i < 3; ++i) {
    const Stepped whole =
        Die(GetParam(), 200'000, end, notices, wrong, i == 2 ? kRecordChanges : 0);
    ASSERT_EQ(wrong, "") << scenario.name;
    ASSERT_TRUE(whole.over) << "the window has an end";
    length = std::max(length, whole.instructions);
  }
  Holdings before;
  ASSERT_TRUE(Happens([&] { return (before = GetHoldings()).mappings == 0; }))
      << before.mappings << " mappings are left";
  const Changes& changes = SharedState().changes;
  std::vector<uint64_t> steps{0};
  for (uint32_t i = 0; i < changes.count.load(); ++i) steps.push_back(changes.after[i]);
  // One, the beginning, where a small message is read from the ring: how far the reader has come is
  // told to the writer later, for several messages together.
  const size_t change_count = steps.size();
  // Then evenly spread, wherever it ends: `stride` has no divisor in common with their number.
  const uint64_t count = length + 1;
  uint64_t stride = count * 618 / 1000 + 1;
  while (std::gcd(stride, count) != 1) ++stride;
  uint64_t points = 0;
  uint64_t strayed = 0;
  const uint64_t points_wanted = LongRun() ? change_count + count : change_count + kPoints;
  for (; points < points_wanted; ++points) {
    if (points >= steps.size()) steps.push_back((points - change_count) * stride % count);
    const uint64_t step = steps[points];
    const Stepped died = Die(GetParam(), step, end, notices, wrong);
    // A few go another way than the first, which looked, say, for a timer that was just due.
    if (died.over && died.instructions == 0 && step + 200 < count) ++strayed;
    ASSERT_EQ(wrong, "") << scenario.name << ", killed after instruction " << step;
    Holdings now;
    ASSERT_TRUE(Happens([&] { return (now = GetHoldings()) == before; }))
        << scenario.name << ", killed after instruction " << step << ": " << now.descriptors
        << " descriptors instead of " << before.descriptors << ", " << now.mappings
        << " mappings are left";
  }
  EXPECT_TRUE(notices.InTime()) << notices.ToString();
  EXPECT_LE(strayed * 20, points) << "of " << points;
  all_points += points;
  all_changes += change_count;
  all_instructions += count;
  std::printf(
      "%s: killed %llu times, after each of the %zu changes in %llu instructions (%llu came to the "
      "end by another way); lost 0, twice 0, left 0; %s\n",
      scenario.name, static_cast<unsigned long long>(points), change_count,
      static_cast<unsigned long long>(count), static_cast<unsigned long long>(strayed),
      notices.ToString().c_str());
}

INSTANTIATE_TEST_SUITE_P(All, EveryInstruction,
                         testing::Range(0u, static_cast<uint32_t>(std::size(kScenarios))));

}  // namespace
}  // namespace mi7::shm_kill
