#include "transport/fault/fault_script.h"

#include <utility>

#include "absl/status/status.h"
#include "transport/frame.h"

namespace mi7 {
namespace {

using transport::FrameHeader;
using transport::FrameType;
using transport::fault::Fate;
using transport::fault::Way;

bool IsAbout(const FaultRule& rule, Way way, const FrameHeader& header) {
  if (rule.way != FaultWay::kBoth && (rule.way == FaultWay::kSent) != (way == Way::kSent)) {
    return false;
  }
  switch (rule.frames) {
    case FaultFrames::kAny:
      return true;
    case FaultFrames::kCalls:
      return header.type == FrameType::kCall;
    case FaultFrames::kReturns:
      return header.type == FrameType::kReturn;
    case FaultFrames::kCancels:
      return header.type == FrameType::kCancel;
    case FaultFrames::kStreamMessages:
      return header.type == FrameType::kStreamMessage;
    case FaultFrames::kPings:
      return header.type == FrameType::kPing || header.type == FrameType::kPong;
  }
  return false;
}

Fate FateBy(const FaultRule& rule) {
  switch (rule.action) {
    case FaultAction::kDrop:
      return {.kind = Fate::Kind::kDrop};
    case FaultAction::kDelay:
      return {.delay = rule.delay};
    case FaultAction::kLose:
      return {.kind = Fate::Kind::kLose};
  }
  return {};
}

}  // namespace

void FaultScript::Add(const FaultRule& rule) {
  MutexLock lock(&mutex_);
  rules_.push_back({.rule = rule});
}

void FaultScript::Refuse(uint64_t attempts) {
  MutexLock lock(&mutex_);
  refuse_ = attempts > FaultRule::kAll - refuse_ ? FaultRule::kAll : refuse_ + attempts;
}

void FaultScript::Clear() {
  MutexLock lock(&mutex_);
  rules_.clear();
  refuse_ = 0;
}

uint64_t FaultScript::hits() const {
  MutexLock lock(&mutex_);
  return hits_;
}

absl::StatusOr<std::shared_ptr<transport::Connection>> FaultScript::Decorate(
    std::shared_ptr<transport::Connection> inner, transport::EventLoop* loop) {
  {
    MutexLock lock(&mutex_);
    if (refuse_ != 0) {
      if (refuse_ != FaultRule::kAll) --refuse_;
      ++hits_;
      return absl::UnavailableError("connection refused, as the script has it");
    }
  }
  return transport::fault::Scripted(std::move(inner), loop, shared_from_this());
}

Fate FaultScript::FateOf(Way way, const FrameHeader& header) {
  MutexLock lock(&mutex_);
  const FaultRule* applies = nullptr;
  for (Rule& rule : rules_) {
    if (!IsAbout(rule.rule, way, header)) continue;
    const uint64_t number = ++rule.seen;
    if (number >= rule.rule.first && number - rule.rule.first < rule.rule.count &&
        applies == nullptr) {
      applies = &rule.rule;
    }
  }
  if (applies == nullptr) return {};
  ++hits_;
  return FateBy(*applies);
}

}  // namespace mi7
