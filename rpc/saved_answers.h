#pragma once

// SavedAnswers: what a server has answered to calls of $Mi7.deduplicate methods, so that a call
// that is repeated gets the same answer instead of being run again.
//
// A call is known by its request id, which is random and its client's secret, together with its
// method: whoever does not know the id gets nobody's answer. A saved answer is found by calls with
// the same parameters only.
//
// What was dropped, for want of room or because of its age, is not forgotten altogether: the latest
// time at which any of it began is kept. A repeated call that is unknown, and that was first sent
// after that time, has certainly not run here; of one that was sent before it nobody can tell.

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "rpc/metadata.h"

namespace mi7 {

class ServerCall;

// Of a server. A value type.
struct DeduplicationOptions {
  // Answers that are kept, and calls that run. When there are more, the oldest answers go; when as
  // many calls run, further ones are refused with RESOURCE_EXHAUSTED.
  uint32_t answers_max = 10'000;
  // Bytes of answers that are kept. One that is larger by itself is not kept; repeating its call
  // ends with ABORTED.
  uint64_t answer_bytes_max = 64u << 20;
  // How long an answer is kept. Old ones go when the next one comes.
  absl::Duration age_max = absl::Minutes(10);
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
    kNew,          // run it, and call End; `entry` is set
    kRunning,      // it runs: Wait; `entry` is set
    kSaved,        // `answer` is set
    kOtherParams,  // the id is that of a call with other parameters
    kForgotten,    // nobody can tell whether it has run
    kFull,         // so many calls run that this one cannot be kept
  };

  // `now_ns`: MonotonicNanos(), the server's beginning.
  SavedAnswers(const DeduplicationOptions& options, int64_t now_ns)
      : options_(options), forgotten_until_ns_(now_ns) {}

  Found Begin(const Call& call, int64_t now_ns, std::shared_ptr<Entry>& entry,
              std::shared_ptr<const SavedAnswer>& answer);
  // kYes: `waiter` is given back by End. kEnded: `answer` is what the call has ended with.
  enum class Waits { kYes, kEnded, kTooMany };
  Waits Wait(Entry& entry, ServerCall* waiter, std::shared_ptr<const SavedAnswer>& answer);
  // The call was answered. `nothing_done`: it may run again, and is forgotten. Those that have
  // waited are to be answered with the same.
  std::vector<ServerCall*> End(const std::shared_ptr<Entry>& entry,
                               std::shared_ptr<const SavedAnswer> answer, bool nothing_done,
                               int64_t now_ns);

  // What is kept: calls that run included.
  size_t count() const;
  uint64_t bytes() const;

 private:
  using Key = std::tuple<std::string, uint32_t, uint64_t, uint16_t>;
  // Those that have ended, oldest first; the others.
  using Ended = std::list<std::shared_ptr<Entry>>;
  void DropFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropOld(int64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const DeduplicationOptions options_;
  mutable Mutex mutex_;
  absl::flat_hash_map<Key, std::shared_ptr<Entry>> by_key_ ABSL_GUARDED_BY(mutex_);
  Ended ended_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t forgotten_until_ns_ ABSL_GUARDED_BY(mutex_);
};

// One call; SavedAnswers', under its mutex.
class SavedAnswers::Entry {
 public:
  Entry(Key key, uint64_t digest, int64_t began_ns)
      : key_(std::move(key)), digest_(digest), began_ns_(began_ns) {}

 private:
  friend class SavedAnswers;
  const Key key_;
  const uint64_t digest_;
  const int64_t began_ns_;
  int64_t ended_ns_ = 0;
  std::shared_ptr<const SavedAnswer> answer_;  // nullptr while it runs
  uint64_t bytes_ = 0;
  bool over_ = false;
  std::vector<ServerCall*> waiters_;
};

}  // namespace mi7
