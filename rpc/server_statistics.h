#pragma once

// What a server has done so far, in numbers.

#include <atomic>
#include <cstdint>

namespace mi7 {

// Counts since the server's start, of connections that are gone, too. A value type. The numbers are
// read one after the other while the server works: each is right, their sums may be off by what
// happens at the moment.
struct ServerStatistics {
  uint64_t connections_accepted = 0;
  // Handed to their handlers, or answered by an interceptor or by what the server knows of calls
  // with the same id, which also turns away what exceeds ServerOptions::deduplication.
  uint64_t calls_accepted = 0;
  // Answered before that: the server was shutting down, a limit was exceeded, or the message was
  // malformed. Their callers know that they have not run.
  uint64_t calls_refused = 0;
  // Answered with DEADLINE_EXCEEDED without a handler, because their deadline had passed when it
  // would have begun: a server that has many of these has more work than it can do in time.
  uint64_t calls_dropped_late = 0;
  // Of those accepted: recognized as calls that had come before, and answered without a handler.
  uint64_t calls_recognized = 0;

  ServerStatistics& operator+=(const ServerStatistics& other) {
    connections_accepted += other.connections_accepted;
    calls_accepted += other.calls_accepted;
    calls_refused += other.calls_refused;
    calls_dropped_late += other.calls_dropped_late;
    calls_recognized += other.calls_recognized;
    return *this;
  }
};

// A number that one thread at a time raises, each after the one before it, and any thread reads.
// Relaxed: it orders nothing, and is no read-modify-write, since nobody else writes.
class EventCount {
 public:
  void Add() {
    count_.store(count_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  uint64_t get() const { return count_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> count_{0};
};

}  // namespace mi7
