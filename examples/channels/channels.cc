// In-process channels: how the threads and coroutines of one program hand work to each other. Each
// function below is one pattern.
//
//   channels [--values=N]

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/detached_task.h"
#include "channels/channel.h"
#include "channels/pipe_cases.h"
#include "channels/select.h"
#include "transport/event_loop.h"
#include "transport/slot_pipe/slot_pipe.h"

ABSL_FLAG(uint64_t, values, 1000, "values that each producer sends");

namespace {

using namespace mi7::channels;
using mi7::Deadline;
using mi7::DetachedTask;
using mi7::transport::EventLoop;

// Many senders, one receiver. Each thread has a sender of its own; when the last of them is gone,
// the channel is closed, and the loop ends.
bool FanIn(uint64_t values) {
  constexpr uint64_t kProducers = 3;
  auto [sender, receiver] = Unbounded<uint64_t>();
  std::vector<std::thread> producers;
  for (uint64_t producer = 0; producer < kProducers; ++producer) {
    producers.emplace_back([producer, values, out = sender] {
      for (uint64_t i = 0; i < values; ++i) {
        if (!out.Send(producer * values + i).ok()) return;
      }
    });
  }
  sender = {};  // ours
  uint64_t count = 0;
  uint64_t sum = 0;
  for (const uint64_t value : receiver.Values()) {
    ++count;
    sum += value;
  }
  for (std::thread& producer : producers) producer.join();
  const uint64_t all = kProducers * values;
  std::cout << "fan-in: " << count << " values of " << kProducers << " producers, sum " << sum
            << "\n";
  return count == all && sum == all * (all - 1) / 2;
}

// A bounded channel holds a producer back that is faster than its consumer. One that must not wait
// is told so, and keeps the value.
bool BackPressure(uint64_t values) {
  constexpr size_t kCapacity = 4;
  auto [sender, receiver] = Bounded<std::string>(kCapacity);
  uint64_t full = 0;
  std::thread producer([&full, values, out = std::move(sender)] {
    for (uint64_t i = 0; i < values; ++i) {
      std::string value = absl::StrCat("value ", i);
      if (out.TrySend(std::move(value)).ok()) continue;
      ++full;  // and `value` is as it was
      if (!out.Send(std::move(value)).ok()) return;
    }
  });
  // Lets the channel get full, once.
  while (receiver.size() < std::min<uint64_t>(kCapacity, values)) std::this_thread::yield();
  uint64_t count = 0;
  size_t unread_max = receiver.size();
  for (const std::string& value : receiver.Values()) {
    if (value != absl::StrCat("value ", count)) return false;
    ++count;
    unread_max = std::max(unread_max, receiver.size());
  }
  producer.join();
  std::cout << "back-pressure: " << count << " values, at most " << unread_max << " unread\n";
  return count == values && unread_max == kCapacity && (full > 0 || values <= kCapacity);
}

// Waits for the first of several: two channels, a slot pipe (which another process could send to),
// a timer, and being told to stop; then takes what is left.
bool SelectFromMany(uint64_t values) {
  const std::string name = absl::StrCat("channels-", ::getpid());
  auto pipe = mi7::SlotPipe::Create(name, mi7::PipeOptions::Small());
  if (!pipe.ok()) {
    std::cerr << "channels: " << pipe.status() << "\n";
    return false;
  }
  auto [number_sender, numbers] = Bounded<uint64_t>(8);
  auto [word_sender, words] = Bounded<std::string>(8);
  auto [stop, stopped] = Unbounded<bool>();  // nothing is ever sent: closing it is the signal
  std::thread producer([values, &to = **pipe, number = std::move(number_sender),
                        word = std::move(word_sender), stop_all = std::move(stop)] {
    for (uint64_t i = 0; i < values; ++i) {
      if (!number.Send(i).ok() || !word.Send(absl::StrCat(i)).ok()) break;
      if (!to.SendBytes(absl::StrCat(i)).ok()) break;
    }
    stop_all.Close();
  });

  uint64_t number_count = 0;
  uint64_t word_count = 0;
  uint64_t message_count = 0;
  uint64_t ticks = 0;
  bool stopping = false;
  // Cases can be made where they are used, or once.
  auto on_number = OnReceive(numbers, [&](uint64_t) { ++number_count; });
  auto on_word = OnReceive(words, [&](std::string) { ++word_count; });
  auto on_message = OnFetch(**pipe, [&](mi7::ReadSlot message) {
    if (message.Release().ok()) ++message_count;
  });
  Deadline tick = Deadline::After(absl::Milliseconds(1));
  absl::Status status;
  while (status.ok() && !stopping) {
    status = Select(on_number, on_word, on_message, OnClosed(stopped, [&] { stopping = true; }),
                    OnDeadline(tick, [&] {
                      ++ticks;
                      tick = Deadline::After(absl::Milliseconds(1));
                    }));
  }
  while (TrySelect(on_number, on_word, on_message).ok()) {
  }
  producer.join();
  mi7::SlotPipe::Remove(name, /*even_in_use=*/true).IgnoreError();
  std::cout << "select: " << number_count << " numbers, " << word_count << " words, "
            << message_count << " messages\n";
  std::cerr << "(and " << ticks << " ticks of a timer)\n";
  return status.ok() && number_count == values && word_count == values && message_count == values;
}

// Stages of a pipeline, each a coroutine that owns its ends: when it ends, its sender goes, and the
// next stage ends, too. Bounded channels between them let nobody run ahead.
DetachedTask Generate(EventLoop* loop, uint64_t first, uint64_t values, Sender<uint64_t> out) {
  for (uint64_t value = first; value < first + values; ++value) {
    if (!(co_await out.SendOn(loop, uint64_t{value})).ok()) break;
  }
}

DetachedTask Merge(EventLoop* loop, Receiver<uint64_t> left, Receiver<uint64_t> right,
                   Sender<uint64_t> out) {
  for (;;) {
    uint64_t value = 0;
    const auto take = [&value](uint64_t received) { value = received; };
    // Until both are closed.
    if (!(co_await SelectOn(loop, OnReceive(left, take), OnReceive(right, take))).ok()) break;
    if (!(co_await out.SendOn(loop, std::move(value))).ok()) break;
  }
}

DetachedTask Square(EventLoop* loop, Receiver<uint64_t> in, Sender<uint64_t> out) {
  for (;;) {
    const absl::StatusOr<uint64_t> value = co_await in.ReceiveOn(loop);
    if (!value.ok()) break;
    if (!(co_await out.SendOn(loop, *value * *value)).ok()) break;
  }
}

bool Pipeline(uint64_t values) {
  auto loop = EventLoop::Create({});
  if (!loop.ok()) {
    std::cerr << "channels: " << loop.status() << "\n";
    return false;
  }
  EventLoop* const on = loop->get();
  auto [left_sender, left] = Bounded<uint64_t>(4);
  auto [right_sender, right] = Bounded<uint64_t>(4);
  auto [merged_sender, merged] = Bounded<uint64_t>(4);
  auto [square_sender, squares] = Bounded<uint64_t>(4);
  Generate(on, 0, values, std::move(left_sender));
  Generate(on, values, values, std::move(right_sender));
  Merge(on, std::move(left), std::move(right), std::move(merged_sender));
  // Two that share the work: each value goes to one of them.
  Square(on, merged, square_sender);
  Square(on, std::move(merged), std::move(square_sender));
  uint64_t count = 0;
  uint64_t sum = 0;
  for (const uint64_t square : squares.Values()) {
    ++count;
    sum += square;
  }
  const uint64_t n = 2 * values;
  std::cout << "pipeline: " << count << " squares, sum " << sum << "\n";
  return count == n && (n == 0 || sum == (n - 1) * n * (2 * n - 1) / 6);
}

// What cannot be done is told apart.
bool Errors() {
  auto [sender, receiver] = Bounded<int>(1);
  const auto show = [](const char* what, const absl::Status& status) {
    std::cout << "  " << what << ": " << absl::StatusCodeToString(status.code()) << "\n";
    return !status.ok();
  };
  std::cout << "errors\n";
  bool well = show("empty", receiver.TryReceive().status());
  well = sender.Send(1).ok() && well;
  well = show("full", sender.TrySend(2)) && well;
  well = show("late", sender.Send(2, Deadline::After(absl::Milliseconds(1)))) && well;
  sender.Close();
  well = show("closed, to send", sender.Send(2)) && well;
  well = receiver.Receive().ok() && well;
  return show("closed and empty, to receive", receiver.Receive().status()) && well;
}

}  // namespace

int main(int argc, char** argv) {
  if (absl::ParseCommandLine(argc, argv).size() > 1) {
    std::cerr << "channels: takes no arguments but flags; see --help\n";
    return 2;
  }
  const uint64_t values = absl::GetFlag(FLAGS_values);
  const bool well = FanIn(values) && BackPressure(values) && SelectFromMany(values) &&
                    Pipeline(values) && Errors();
  if (!well) std::cerr << "channels: that is not what was to come out\n";
  return well ? 0 : 1;
}
