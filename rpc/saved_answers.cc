#include "rpc/saved_answers.h"

#include <algorithm>
#include <utility>

#include "absl/hash/hash.h"
#include "absl/strings/cord.h"

namespace mi7 {
namespace {

// How many calls are forgotten at most when another one begins: they grow old at the pace at which
// calls have come, and all connections wait for the mutex meanwhile.
constexpr int kForgottenAtOnce = 16;

size_t BytesOf(const Metadata& metadata) {
  size_t bytes = 0;
  for (const Metadata::Entry& entry : metadata.entries()) {
    bytes += sizeof(entry) + entry.key.size() + entry.value.size();
  }
  return bytes;
}

}  // namespace

size_t SavedAnswer::bytes() const {
  size_t bytes = sizeof(*this) + words.size() * sizeof(words[0]) +
                 segment_words.size() * sizeof(segment_words[0]) + status.message().size() +
                 BytesOf(metadata.initial) + BytesOf(metadata.trailing);
  status.ForEachPayload([&bytes](absl::string_view url, const absl::Cord& payload) {
    bytes += url.size() + payload.size();
  });
  return bytes;
}

SavedAnswers::SavedAnswers(const DeduplicationOptions& options, int64_t now_ns)
    : options_(options),
      age_max_ns_(absl::ToInt64Nanoseconds(options.age_max)),  // saturates
      late_max_ns_(std::min(absl::ToInt64Nanoseconds(options.late_max), age_max_ns_)),
      forgotten_until_ns_(now_ns) {}

SavedAnswers::Found SavedAnswers::Begin(const Call& call, int64_t now_ns,
                                        std::shared_ptr<Entry>& entry,
                                        std::shared_ptr<const SavedAnswer>& answer) {
  Key key(call.request_id, call.service_key, call.interface_id, call.method_id);
  MutexLock lock(&mutex_);
  ForgetOld(now_ns);
  const auto found = by_key_.find(key);
  if (found != by_key_.end()) {
    Entry& known = *found->second;
    if (known.digest_ != call.digest) return Found::kOtherParams;
    if (known.answer_ != nullptr) {
      answer = known.answer_;
      return Found::kSaved;
    }
    entry = found->second;
    return Found::kRunning;
  }
  if (dropped_hashes_.contains(absl::HashOf(key))) return Found::kDropped;
  if (call.sent_after_ns <= forgotten_until_ns_) return Found::kForgotten;
  const bool no_room = by_key_.size() >= options_.answers_max;
  if (no_room && ended_.empty()) return Found::kTooManyRun;
  if (known_locked() >= options_.calls_known_max && !ForgetFirst(now_ns, late_max_ns_)) {
    return Found::kTooManyKnown;
  }
  if (no_room && by_key_.size() >= options_.answers_max) DropFirst();
  entry = std::make_shared<Entry>(key, call.digest);
  by_key_.emplace(std::move(key), entry);
  return Found::kNew;
}

SavedAnswers::Waits SavedAnswers::Wait(Entry& entry, ServerCall* waiter,
                                       std::shared_ptr<const SavedAnswer>& answer) {
  MutexLock lock(&mutex_);
  if (entry.over_) {
    answer = entry.answer_;
    return Waits::kEnded;
  }
  if (entry.waiters_.size() >= kWaitersMax) return Waits::kTooMany;
  entry.waiters_.push_back(waiter);
  return Waits::kYes;
}

bool SavedAnswers::StopWaiting(Entry& entry, ServerCall* waiter) {
  MutexLock lock(&mutex_);
  return std::erase(entry.waiters_, waiter) != 0;
}

std::vector<ServerCall*> SavedAnswers::End(const std::shared_ptr<Entry>& entry,
                                           std::shared_ptr<const SavedAnswer> answer,
                                           bool nothing_done, int64_t now_ns) {
  const uint64_t bytes = answer->bytes();
  MutexLock lock(&mutex_);
  entry->over_ = true;
  entry->ended_ns_ = now_ns;
  entry->answer_ = std::move(answer);
  std::vector<ServerCall*> waiters = std::exchange(entry->waiters_, {});
  if (nothing_done) {
    by_key_.erase(entry->key_);
    return waiters;
  }
  if (bytes > options_.answer_bytes_max) {
    auto too_large = std::make_shared<SavedAnswer>();
    too_large->too_large = true;
    entry->answer_ = std::move(too_large);
  } else {
    entry->bytes_ = bytes;
  }
  ended_.push_back(entry);
  bytes_ += entry->bytes_;
  while (bytes_ > options_.answer_bytes_max) DropFirst();
  return waiters;
}

void SavedAnswers::DropFirst() {
  const std::shared_ptr<Entry> first = std::move(ended_.front());
  ended_.pop_front();
  bytes_ -= first->bytes_;
  by_key_.erase(first->key_);
  const uint64_t hash = absl::HashOf(first->key_);
  dropped_.push_back({.hash = hash, .ended_ns = first->ended_ns_});
  dropped_hashes_.insert(hash);
}

bool SavedAnswers::ForgetFirst(int64_t now_ns, int64_t age_ns) {
  if (dropped_.empty() && ended_.empty()) return false;
  const int64_t ended_ns = dropped_.empty() ? ended_.front()->ended_ns_ : dropped_.front().ended_ns;
  if (now_ns - ended_ns <= age_ns) return false;
  if (dropped_.empty()) DropFirst();
  dropped_hashes_.erase(dropped_.front().hash);
  dropped_.pop_front();
  if (dropped_.empty()) dropped_hashes_.clear();  // gives back the memory of a burst
  // An attempt at it was sent before it ended, and tells its age as if it were read at once.
  forgotten_until_ns_ = std::max(forgotten_until_ns_, ended_ns + late_max_ns_);
  return true;
}

void SavedAnswers::ForgetOld(int64_t now_ns) {
  for (int i = 0; i < kForgottenAtOnce && ForgetFirst(now_ns, age_max_ns_); ++i) {
  }
}

size_t SavedAnswers::count() const {
  MutexLock lock(&mutex_);
  return by_key_.size();
}

size_t SavedAnswers::known() const {
  MutexLock lock(&mutex_);
  return known_locked();
}

uint64_t SavedAnswers::bytes() const {
  MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace mi7
