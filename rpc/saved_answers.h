#pragma once

// SavedAnswers: what a server has answered to calls of $Mi7.deduplicate methods, so that a call
// that is repeated gets the same answer instead of being run again.
//
// A call is known by its request id, which is random and its client's secret, together with its
// method: whoever does not know the id gets nobody's answer. A saved answer is found by calls with
// the same parameters only.
//
// An answer that was dropped for want of room leaves the id of its call, which is not run again. So
// an attempt that is read late, long after others at the same call, is still known. Ids are
// forgotten because of their age, or when there are too many of them, but none that ended less than
// DeduplicationOptions::late_max ago: then there is no room for new calls.
//
// What was forgotten leaves the latest time at which an attempt at any of it can have been read
// that came before its end, late_max included. A repeated call that is unknown, and that was first
// sent after that time, has not run here; of one that was sent before it nobody can tell.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "rpc/metadata.h"

namespace mi7 {

class ServerCall;

// Of a server. A value type.
struct DeduplicationOptions {
  // Answers that are kept, and calls that run. When there are more, the oldest answers go, and
  // repeating their calls ends with ABORTED; when as many calls run, further ones are refused with
  // RESOURCE_EXHAUSTED.
  uint32_t answers_max = 10'000;
  // Bytes of answers that are kept; likewise. One that is larger by itself is not kept.
  uint64_t answer_bytes_max = 64u << 20;
  // Calls that are known: those of answers_max, and those whose answers went for want of room. One
  // of the latter takes about 40 bytes. When there are more, the oldest are forgotten, but not
  // before late_max; until then further calls are refused with RESOURCE_EXHAUSTED.
  uint32_t calls_known_max = 1'000'000;
  // How long a call is known after its end, with its answer or without. Old ones go when others
  // come.
  absl::Duration age_max = absl::Minutes(10);
  // So long after it was sent, at most, an attempt may be read by a server that lags behind, and
  // still not run a second time. No more than age_max, which counts otherwise.
  absl::Duration late_max = absl::Minutes(1);
};

// How a handler has answered.
struct SavedAnswer {
  absl::Status status;
  ResponseMetadata metadata;
  // The results' segments, one after the other, and how many words each has; of an OK answer.
  std::vector<uint64_t> words;
  std::vector<size_t> segment_words;
  bool too_large = false;  // to be kept; the rest is empty then

  size_t bytes() const;
};

// Thread-safe.
class SavedAnswers {
 public:
  // Calls that wait for one that runs.
  static constexpr size_t kWaitersMax = 16;

  struct Call {
    absl::string_view request_id;
    uint32_t service_key;
    uint64_t interface_id;
    uint16_t method_id;
    uint64_t digest;  // of the parameters
    // Before when an attempt that may have run was certainly not sent, in MonotonicNanos;
    // INT64_MAX: there was none.
    int64_t sent_after_ns;
  };
  class Entry;
  enum class Found {
    kNew,           // run it, and call End; `entry` is set
    kRunning,       // it runs: Wait; `entry` is set
    kSaved,         // `answer` is set
    kDropped,       // it has run, and its answer was dropped
    kOtherParams,   // the id is that of a call with other parameters
    kForgotten,     // nobody can tell whether it has run
    kTooManyRun,    // answers_max: this one cannot be kept
    kTooManyKnown,  // calls_known_max; likewise
  };

  // `now_ns`: MonotonicNanos(), the server's beginning.
  SavedAnswers(const DeduplicationOptions& options, int64_t now_ns);

  Found Begin(const Call& call, int64_t now_ns, std::shared_ptr<Entry>& entry,
              std::shared_ptr<const SavedAnswer>& answer);
  // kYes: `waiter` is given back by End. kEnded: `answer` is what the call has ended with.
  enum class Waits { kYes, kEnded, kTooMany };
  Waits Wait(Entry& entry, ServerCall* waiter, std::shared_ptr<const SavedAnswer>& answer);
  // `waiter` does not wait any more. False: it did not, End has given it back or is about to.
  bool StopWaiting(Entry& entry, ServerCall* waiter);
  // The call was answered. `nothing_done`: it may run again, and is forgotten. Those that have
  // waited are to be answered with the same.
  std::vector<ServerCall*> End(const std::shared_ptr<Entry>& entry,
                               std::shared_ptr<const SavedAnswer> answer, bool nothing_done,
                               int64_t now_ns);

  // Answers that are kept, and calls that run.
  size_t count() const;
  // And those whose answers were dropped.
  size_t known() const;
  uint64_t bytes() const;

 private:
  using Key = std::tuple<std::string, uint32_t, uint64_t, uint16_t>;
  // A call whose answer was dropped. 64 bits of a hash stand for its key: with a million of them,
  // one new call in 10^13 is taken for one that has run.
  struct Dropped {
    uint64_t hash;
    int64_t ended_ns;
  };
  // The oldest answer goes, its call stays known.
  void DropFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The oldest call that has ended is forgotten, if that was more than `age_ns` ago.
  bool ForgetFirst(int64_t now_ns, int64_t age_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Those older than age_max, a few at a time.
  void ForgetOld(int64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  size_t known_locked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return by_key_.size() + dropped_.size();
  }

  const DeduplicationOptions options_;
  const int64_t age_max_ns_;
  const int64_t late_max_ns_;
  mutable Mutex mutex_;
  absl::flat_hash_map<Key, std::shared_ptr<Entry>> by_key_ ABSL_GUARDED_BY(mutex_);
  // Those of by_key_ that have ended, oldest first.
  std::list<std::shared_ptr<Entry>> ended_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // All older than those of ended_; oldest first, and their hashes.
  std::deque<Dropped> dropped_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<uint64_t> dropped_hashes_ ABSL_GUARDED_BY(mutex_);
  int64_t forgotten_until_ns_ ABSL_GUARDED_BY(mutex_);
};

// One call; SavedAnswers', under its mutex.
class SavedAnswers::Entry {
 public:
  Entry(Key key, uint64_t digest) : key_(std::move(key)), digest_(digest) {}

 private:
  friend class SavedAnswers;
  const Key key_;
  const uint64_t digest_;
  int64_t ended_ns_ = 0;
  std::shared_ptr<const SavedAnswer> answer_;  // nullptr while it runs
  uint64_t bytes_ = 0;
  bool over_ = false;
  std::vector<ServerCall*> waiters_;
};

}  // namespace mi7
