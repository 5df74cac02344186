#include "rpc/saved_answers.h"

#include <algorithm>
#include <utility>

#include "absl/strings/cord.h"

namespace mi7 {
namespace {

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

SavedAnswers::Found SavedAnswers::Begin(const Call& call, int64_t now_ns,
                                        std::shared_ptr<Entry>& entry,
                                        std::shared_ptr<const SavedAnswer>& answer) {
  Key key(call.request_id, call.service_key, call.interface_id, call.method_id);
  MutexLock lock(&mutex_);
  DropOld(now_ns);
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
  if (call.sent_after_ns <= forgotten_until_ns_) return Found::kForgotten;
  if (by_key_.size() >= options_.answers_max) {
    if (ended_.empty()) return Found::kFull;
    DropFirst();
  }
  entry = std::make_shared<Entry>(key, call.digest, now_ns);
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
  forgotten_until_ns_ = std::max(forgotten_until_ns_, first->began_ns_);
  by_key_.erase(first->key_);
}

void SavedAnswers::DropOld(int64_t now_ns) {
  const int64_t age_max_ns = absl::ToInt64Nanoseconds(options_.age_max);  // saturates
  while (!ended_.empty() && now_ns - ended_.front()->ended_ns_ > age_max_ns) DropFirst();
}

size_t SavedAnswers::count() const {
  MutexLock lock(&mutex_);
  return by_key_.size();
}

uint64_t SavedAnswers::bytes() const {
  MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace mi7
