// The sources of the protocol, of the hints and of the events, run by a few actors in every order
// of their steps, within the bounds that each scenario has (explorer.h).
//
//   interleavings [--long]    (--long also by MI7_LONG in the environment)
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
#include <vector>

#include "transport/slot_pipe/interleaving/explorer.h"
#include "transport/slot_pipe/interleaving/world.h"

namespace mi7::slot_pipe_internal {
namespace {

constexpr uint16_t kVictim = 0;  // of the scenarios with a death: the first actor

// A world, its people, and what they do, which lives as long as the actors.
struct Stage {
  explicit Stage(uint32_t slots, uint64_t position = 0) : world(slots, position) {
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

struct Scenario {
  const char* name;
  std::function<Run()> start;
  Bounds bounds;
  int more_preemptions;  // of --long
};

std::vector<Scenario> Scenarios() {
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
       [] {
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
       },
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

// What the program ends with when all was well with too few orders; 1 when something was wrong.
constexpr int kTooFew = 3;

int RunAll(bool all) {
  uint64_t orders = 0;
  for (Scenario& scenario : Scenarios()) {
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
  constexpr uint64_t kOrdersMin = 1'000'000;
  if (orders < kOrdersMin) {
    std::printf("too few: %llu were wanted\n", static_cast<unsigned long long>(kOrdersMin));
    return kTooFew;
  }
  return 0;
}

}  // namespace
}  // namespace mi7::slot_pipe_internal

int main(int argc, char** argv) {
  return mi7::slot_pipe_internal::RunAll((argc > 1 && std::strcmp(argv[1], "--long") == 0) ||
                                         std::getenv("MI7_LONG") != nullptr);
}
