// The sources of the protocol, of the hints and of the events, run by a few actors in every order
// of their steps, within the bounds that each scenario has (explorer.h). In some, memory is as weak
// as the memory orders make it (weak_memory.h).
//
//   interleavings [--long | --only=PREFIX]    (--long also by MI7_LONG in the environment)
//
// Exit status 0 when all was well in every order, 1 when not, which is printed. A program and no
// test by itself, so that it can be linked with mutants, which it must find.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "transport/slot_pipe/interleaving/explorer.h"
#include "transport/slot_pipe/interleaving/world.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr uint16_t kVictim = 0;  // of the scenarios with a death: the first actor

// A world, its people, and what they do, which lives as long as the actors.
struct Stage {
  explicit Stage(uint32_t slots, uint64_t position = 0, uint32_t cells = 256)
      : world(slots, position, cells) {
    for (uint16_t index = 0; index < 4; ++index) people.emplace_back(&world, index);
  }
  World world;
  std::deque<Person> people;
};

// Makes a Run of what each person does.
using Act = std::function<void(Person&)>;
Run MakeRun(std::shared_ptr<Stage> stage, std::vector<Act> acts) {
  Run run;
  for (size_t i = 0; i < acts.size(); ++i) {
    run.actors.push_back([stage, act = std::move(acts[i]), i] { act(stage->people[i]); });
  }
  run.check = [stage] { return stage->world.Audit(); };
  return run;
}

Act Produce(std::vector<uint32_t> messages) {
  return [messages = std::move(messages)](Person& person) {
    for (const uint32_t message : messages) person.Send(person.Hold(), message);
  };
}

Act Consume(int count) {
  return [count](Person& person) {
    for (int i = 0; i < count; ++i) person.Release(person.Fetch());
  };
}

// Waits for the death of the victim, if it dies, and recovers.
Act RecoverTheVictim(bool* over) {
  return [over](Person& person) {
    WaitUntil([over] { return Killed() || *over; });
    if (Killed()) person.Recover(kVictim);
  };
}

Run GivenBackWhileSomebodyFindsNone() {
  auto stage = std::make_shared<Stage>(2);
  auto held = std::make_shared<std::vector<Claim>>();
  held->push_back(stage->people[0].Hold());
  held->push_back(stage->people[1].Hold());
  const auto give_back = [held](size_t which) {
    return [held, which](Person& person) { person.GiveBack((*held)[which]); };
  };
  return MakeRun(stage, {give_back(0), give_back(1), [](Person& person) {
                           Claim claim;
                           if (person.protocol().Hold(claim) == Outcome::kDone) {
                             person.GiveBack(claim);
                           }
                         }});
}

// Sends message 0, or fetches it, while somebody else takes what is in the pipe, the ring goes
// round so far that the laps of its cells have changed by `laps`, and message 1 is sent: whoever is
// stopped in the middle meanwhile takes neither the one for the other nor their cells for damage.
// The message that comes then is in the same slot and in the same cell; its tag has changed, as
// after any number of messages but a multiple of 2^24 in that slot.
Run StoppedWhileItGoesRound(bool sends, uint64_t laps) {
  auto stage = std::make_shared<Stage>(2);
  if (!sends) stage->people[0].Send(stage->people[0].Hold(), 0);
  const auto stopped = [sends](Person& person) {
    Claim claim;
    if (sends) {
      person.Send(person.Hold(), 0);
    } else if (person.TryFetch(claim)) {
      person.Release(claim);
    }
  };
  const auto others = [stage, laps](Person& person) {
    for (Claim claim; person.TryFetch(claim);) person.Release(claim);
    stage->world.GoRound(laps * 256, laps * 256);
    person.Send(person.Hold(), 1);
  };
  return MakeRun(stage, {stopped, others});
}

struct Scenario {
  const char* name;
  std::function<Run()> start;
  Bounds bounds;
  int more_preemptions;  // of --long
};

std::vector<Scenario> ScenariosOfSteps() {
  return {
      {"two produce, two consume, one slot: all wait for each other",
       [] {
         return MakeRun(std::make_shared<Stage>(1),
                        {Produce({0}), Produce({1}), Consume(1), Consume(1)});
       },
       {.preemptions = 2},
       1},
      {"two produce, two consume, two slots, where the ring comes round",
       [] {
         return MakeRun(std::make_shared<Stage>(2, 255),
                        {Produce({0}), Produce({1}), Consume(1), Consume(1)});
       },
       {.preemptions = 2},
       1},
      {"one produces three messages, one consumes",
       [] {
         return MakeRun(std::make_shared<Stage>(2), {Produce({0, 1, 2}), Consume(3)});
       },
       {.preemptions = 3},
       1},
      {"one wake is passed on to two who sleep",
       [] {
         return MakeRun(std::make_shared<Stage>(4), {Produce({0, 1}), Consume(1), Consume(1)});
       },
       {.preemptions = 3},
       1},
      {"slots are given back while somebody finds none",
       [] { return GivenBackWhileSomebodyFindsNone(); },
       {.preemptions = 4},
       2},
      {"a message is returned while others fetch and send",
       [] {
         auto stage = std::make_shared<Stage>(2);
         stage->people[0].Send(stage->people[0].Hold(), 0);
         return MakeRun(stage, {[](Person& person) {
                                  Claim claim;
                                  if (person.TryFetch(claim)) person.Return(claim);
                                },
                                Produce({1}), Consume(1), Consume(1)});
       },
       {.preemptions = 2},
       1},
      {"a death while producing, with a consumer and a recovery",
       [] {
         auto over = std::make_shared<bool>(false);
         return MakeRun(std::make_shared<Stage>(2), {[over](Person& person) {
                                                       person.Send(person.Hold(), 0);
                                                       person.Send(person.Hold(), 1);
                                                       *over = true;
                                                     },
                                                     RecoverTheVictim(over.get()),
                                                     [over](Person& person) {
                                                       Claim claim;
                                                       for (int i = 0; i < 2; ++i) {
                                                         if (person.TryFetch(claim))
                                                           person.Release(claim);
                                                       }
                                                     }});
       },
       {.preemptions = 2, .death = true},
       1},
      {"a death while consuming and returning, with a consumer and a recovery",
       [] {
         auto over = std::make_shared<bool>(false);
         auto stage = std::make_shared<Stage>(2);
         stage->people[1].Send(stage->people[1].Hold(), 0);
         stage->people[1].Send(stage->people[1].Hold(), 1);
         return MakeRun(stage, {[over](Person& person) {
                                  Claim claim;
                                  if (person.TryFetch(claim)) person.Return(claim);
                                  if (person.TryFetch(claim)) person.Release(claim);
                                  *over = true;
                                },
                                RecoverTheVictim(over.get()),
                                [over](Person& person) {
                                  Claim claim;
                                  for (int i = 0; i < 2; ++i) {
                                    if (person.TryFetch(claim)) person.Release(claim);
                                  }
                                }});
       },
       {.preemptions = 2, .death = true},
       1},
  };
}

// Those who stop for long: by as many laps as make an older cell look newer, and the other way
// round (CellWord::LapsAhead), and as make all laps come again.
std::vector<Scenario> ScenariosOfLongStops() {
  std::vector<Scenario> all;
  for (const bool sends : {false, true}) {
    for (const uint64_t laps :
         {uint64_t{1}, (uint64_t{1} << 24) - 1, uint64_t{1} << 24, (uint64_t{1} << 24) + 1,
          (uint64_t{1} << 25) - 1, uint64_t{1} << 25, (uint64_t{1} << 25) + 1}) {
      all.push_back({sends ? "laps: a send is stopped while the ring goes round"
                           : "laps: a fetch is stopped while the ring goes round",
                     [sends, laps] { return StoppedWhileItGoesRound(sends, laps); },
                     {.preemptions = 2},
                     2});
    }
  }
  return all;
}

// Those in which each load returns what its memory order permits.
std::vector<Scenario> ScenariosOfOrders() {
  return {
      {"orders: one produces for two, all wait for each other",
       [] {
         return MakeRun(std::make_shared<Stage>(1), {Produce({0, 1}), Consume(1), Consume(1)});
       },
       {.preemptions = 2, .stale_loads = 1},
       1},
      {"orders: two produce for one",
       [] {
         return MakeRun(std::make_shared<Stage>(2), {Produce({0}), Produce({1}), Consume(2)});
       },
       {.preemptions = 2, .stale_loads = 1},
       1},
      // Of two cells, so soon: a cell of the round before is older than the position says (W4).
      {"orders: the ring comes round under two who fetch",
       [] {
         return MakeRun(std::make_shared<Stage>(1, 0, 2),
                        {Produce({0, 1, 2}), Consume(2), Consume(1)});
       },
       {.preemptions = 2, .stale_loads = 1},
       1},
      {"orders: the ring comes round under two who send",
       [] {
         return MakeRun(std::make_shared<Stage>(1, 0, 2),
                        {Produce({0, 1}), Produce({2}), Consume(3)});
       },
       {.preemptions = 2, .stale_loads = 1},
       1},
      {"orders: the ring comes round while one is slow to send",
       [] {
         return MakeRun(std::make_shared<Stage>(2, 0, 4),
                        {Produce({0}), Produce({1, 2, 3, 4}), Consume(5)});
       },
       {.preemptions = 1, .stale_loads = 1},
       1},
      {"orders: a wait is cancelled while a message comes",
       [] {
         return MakeRun(std::make_shared<Stage>(2),
                        {[](Person& person) {
                           Claim claim;
                           while (person.FetchUnlessCancelled(claim)) {
                             person.Release(claim);
                           }
                         },
                         Produce({0}), [](Person& person) { person.Cancel(); }});
       },
       {.preemptions = 2, .stale_loads = 1},
       1},
      {"orders: slots are given back while somebody finds none",
       [] { return GivenBackWhileSomebodyFindsNone(); },
       {.preemptions = 2, .stale_loads = 1},
       1},
      {"orders: a message is returned, and who waits gets it",
       [] {
         auto stage = std::make_shared<Stage>(2);
         stage->people[0].Send(stage->people[0].Hold(), 0);
         return MakeRun(stage, {[](Person& person) {
                                  Claim claim;
                                  if (person.TryFetch(claim)) person.Return(claim);
                                },
                                Consume(1)});
       },
       {.preemptions = 3, .stale_loads = 1},
       1},
      {"orders: a death while consuming and returning, and who waits gets it",
       [] {
         auto over = std::make_shared<bool>(false);
         auto stage = std::make_shared<Stage>(2, 0, 4);
         stage->people[1].Send(stage->people[1].Hold(), 0);
         return MakeRun(stage, {[over](Person& person) {
                                  Claim claim;
                                  if (person.TryFetch(claim)) person.Return(claim);
                                  *over = true;
                                },
                                RecoverTheVictim(over.get()), Consume(1)});
       },
       {.preemptions = 2, .death = true, .stale_loads = 1},
       1},
      {"orders: a death while producing, with a recovery",
       [] {
         auto over = std::make_shared<bool>(false);
         return MakeRun(std::make_shared<Stage>(2, 0, 4), {[over](Person& person) {
                                                             person.Send(person.Hold(), 0);
                                                             *over = true;
                                                           },
                                                           RecoverTheVictim(over.get()),
                                                           [](Person& person) {
                                                             Claim claim;
                                                             if (person.TryFetch(claim))
                                                               person.Release(claim);
                                                           }});
       },
       {.preemptions = 2, .death = true, .stale_loads = 1},
       1},
  };
}

// What the program ends with when all was well with too few orders; 1 when something was wrong.
constexpr int kTooFew = 3;

int RunAll(bool all, const std::string& only) {
  uint64_t orders = 0;
  std::vector<Scenario> scenarios = ScenariosOfSteps();
  for (auto* more : {&ScenariosOfLongStops, &ScenariosOfOrders}) {
    const std::vector<Scenario> others = more();
    scenarios.insert(scenarios.end(), others.begin(), others.end());
  }
  for (Scenario& scenario : scenarios) {
    if (std::string(scenario.name).rfind(only, 0) != 0) continue;
    if (all) scenario.bounds.preemptions += scenario.more_preemptions;
    const Explored explored = Explore(scenario.start, scenario.bounds);
    std::printf("%s: %llu orders, %llu steps%s%s\n", scenario.name,
                static_cast<unsigned long long>(explored.orders),
                static_cast<unsigned long long>(explored.steps),
                explored.wrong.empty() ? "" : ": WRONG: ", explored.wrong.c_str());
    std::fflush(stdout);
    if (!explored.wrong.empty()) return 1;
    orders += explored.orders;
  }
  std::printf("RELIABILITY: %llu orders of steps: all was well\n",
              static_cast<unsigned long long>(orders));
  constexpr uint64_t kOrdersMin = 2'000'000;
  if (orders < kOrdersMin && only.empty()) {
    std::printf("too few: %llu were wanted\n", static_cast<unsigned long long>(kOrdersMin));
    return kTooFew;
  }
  return 0;
}

}  // namespace
}  // namespace mi7::slot_pipe_internal

int main(int argc, char** argv) {
  const std::string argument = argc > 1 ? argv[1] : "";
  return mi7::slot_pipe_internal::RunAll(
      argument == "--long" || std::getenv("MI7_LONG") != nullptr,
      argument.rfind("--only=", 0) == 0 ? argument.substr(7) : "");
}
