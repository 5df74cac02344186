// How an AnswerSide deals with calls that may come several times.

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <stop_token>
#include <utility>
#include <vector>

#include <capnp/any.h>
#include <capnp/message.h>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "rpc/answer_side.h"
#include "rpc/call_scope.h"
#include "rpc/message_reader.h"
#include "rpc/retry_info.h"
#include "rpc/saved_answers.h"

namespace mi7 {
namespace {

// After which a call is to come again that had no room among those that are recognized.
constexpr absl::Duration kAdvisedWait = absl::Milliseconds(50);

// Of the parameters, however they are laid out in the message: an attempt may have been copied.
// May throw kj::Exception.
uint64_t DigestOf(const transport::IncomingMessage& request, const Limits& limits) {
  BodyReader reader(request, limits);
  const kj::Array<capnp::word> words = reader.getRoot<capnp::AnyStruct>().canonicalize();
  const auto bytes = words.asBytes().asChars();
  return absl::HashOf(absl::string_view(bytes.begin(), bytes.size()));
}

absl::Status NoRoom(const MethodInfo& method, absl::string_view why) {
  return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(method.name, ": ", why)),
                        kAdvisedWait);
}

// Whether the handler promises by its answer that it has done nothing (docs/RETRIES.md).
bool NothingDone(const MethodInfo& method, const absl::Status& status) {
  return RetryAfter(status).has_value() ||
         (absl::IsUnavailable(status) && method.repeat >= Repeat::kRetryable);
}

std::shared_ptr<const SavedAnswer> Save(const absl::Status& status,
                                        const ResponseMetadata& metadata,
                                        transport::MessageBody& response) {
  auto answer = std::make_shared<SavedAnswer>();
  answer->status = status;
  answer->metadata = metadata;
  if (!status.ok()) return answer;
  for (const auto& segment : response.Segments()) {
    const auto* const words = reinterpret_cast<const uint64_t*>(segment.begin());
    answer->words.insert(answer->words.end(), words, words + segment.size());
    answer->segment_words.push_back(segment.size());
  }
  return answer;
}

void SetResults(const SavedAnswer& answer, transport::MessageBody& response) {
  std::vector<kj::ArrayPtr<const capnp::word>> segments;
  const auto* words = reinterpret_cast<const capnp::word*>(answer.words.data());
  for (const size_t size : answer.segment_words) {
    segments.push_back(kj::arrayPtr(words, size));
    words += size;
  }
  // Our own message, which needs no bounds.
  capnp::ReaderOptions unbounded;
  unbounded.traversalLimitInWords = std::numeric_limits<uint64_t>::max();
  unbounded.nestingLimit = std::numeric_limits<int>::max();
  capnp::SegmentArrayMessageReader reader(kj::arrayPtr(segments.data(), segments.size()),
                                          unbounded);
  response.setRoot(reader.getRoot<capnp::AnyPointer>());
}

}  // namespace

bool AnswerSide::RunsOnce(ServerCall& call) {
  SavedAnswers* const saved = config_->saved_answers.get();
  const MethodInfo* const method = config_->dispatcher->FindMethod(call.header());
  const CallExtra& received = call.extras_->received;
  if (method == nullptr) return true;  // which is all that it will be told
  const auto answer_with = [&](absl::StatusCode code, absl::string_view why) {
    call.Answer(absl::Status(code, absl::StrCat(method->name, ": ", why)));
    return false;
  };
  // It has certainly not run, in whatever attempt, and the caller asks again.
  const auto refuse = [&](absl::string_view why) {
    call.extras_->refused = true;
    call.Answer(NoRoom(*method, why));
    return false;
  };
  if (saved == nullptr || !method->deduplicate || method->kind != MethodKind::kUnary) {
    // Its schema says there what it does not say here.
    if (received.may_have_run_for_us == 0 || method->repeat == Repeat::kIdempotent) return true;
    return answer_with(absl::StatusCode::kAborted,
                       "an earlier attempt may have run, and this server does not recognize calls "
                       "of the method");
  }
  const int64_t now_ns = MonotonicNanos();
  SavedAnswers::Call known = {.request_id = received.request_id,
                              .service_key = call.header().target_id,
                              .interface_id = call.header().interface_id,
                              .method_id = call.header().code,
                              .digest = 0,
                              .sent_after_ns = std::numeric_limits<int64_t>::max()};
  if (const uint64_t ago_us = received.may_have_run_for_us; ago_us != 0) {
    const auto at_most_us = static_cast<uint64_t>(now_ns) / 1000;
    known.sent_after_ns =
        call.extras_->arrived_ns - static_cast<int64_t>(std::min(ago_us, at_most_us)) * 1000;
  }
  try {
    known.digest = DigestOf(call.request_, *call.limits_);
  } catch (...) {
    call.Answer(StatusOfException(absl::StatusCode::kInvalidArgument, method->name));
    return false;
  }

  std::shared_ptr<SavedAnswers::Entry> entry;
  std::shared_ptr<const SavedAnswer> answer;
  switch (saved->Begin(known, now_ns, entry, answer)) {
    case SavedAnswers::Found::kNew:
      call.extras_->running = std::move(entry);
      call.runs_once_ = true;
      return true;
    case SavedAnswers::Found::kRunning:
      counts().recognized.Add();
      AwaitAnswer(call, *method, entry);
      return false;
    case SavedAnswers::Found::kSaved:
      counts().recognized.Add();
      call.AnswerAgain(*answer);
      return false;
    case SavedAnswers::Found::kDropped:
      counts().recognized.Add();
      return answer_with(absl::StatusCode::kAborted,
                         "the call has run; its answer was dropped for want of room "
                         "(deduplication.answers_max, deduplication.answer_bytes_max)");
    case SavedAnswers::Found::kOtherParams:
      return answer_with(absl::StatusCode::kInvalidArgument,
                         "the request id is that of a call with other parameters");
    case SavedAnswers::Found::kForgotten:
      return answer_with(absl::StatusCode::kAborted,
                         "an earlier attempt may have run: the server has no record of the time at "
                         "which it was made (it was restarted, or has dropped the answer)");
    case SavedAnswers::Found::kTooManyRun:
      return refuse("deduplication.answers_max calls of this kind run already");
    case SavedAnswers::Found::kTooManyKnown:
      break;
  }
  return refuse(
      "deduplication.calls_known_max calls of this kind have begun within deduplication.late_max");
}

void AnswerSide::AwaitAnswer(ServerCall& call, const MethodInfo& method,
                             const std::shared_ptr<SavedAnswers::Entry>& entry) {
  const std::shared_ptr<SavedAnswers>& saved = config_->saved_answers;
  // Once it waits, whoever ends the other call answers this one, or its caller's giving up does. So
  // there is a second reference, for this function.
  call.Share();
  const std::shared_ptr<CallScope> scope = ScopeOf(call);
  std::shared_ptr<const SavedAnswer> answer;
  switch (saved->Wait(*entry, &call, answer)) {
    case SavedAnswers::Waits::kYes:
      // When it is destroyed, with the call, it waits for what runs of it on another thread.
      call.extras_->on_given_up = std::make_unique<std::stop_callback<std::function<void()>>>(
          scope->token(), [saved, entry, waiter = &call, name = method.name] {
            if (!saved->StopWaiting(*entry, waiter)) return;
            const bool late = waiter->deadline_.passed();
            waiter->Answer(absl::Status(
                late ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled,
                absl::StrCat(name, late ? ": deadline passed" : ": cancelled",
                             " while an earlier attempt at the call runs")));
          });
      break;
    case SavedAnswers::Waits::kTooMany:
      // Without advice, which would promise that nothing was done.
      call.Answer(absl::AbortedError(
          absl::StrCat(method.name, ": the call runs, and too many wait for its answer already")));
      break;
    case SavedAnswers::Waits::kEnded:
      call.AnswerAgain(*answer);
      break;
  }
  call.Unref();
}

void AnswerSide::SaveAnswer(ServerCall& call, const absl::Status& status) {
  if (forked()) return;
  const std::shared_ptr<SavedAnswers::Entry> entry = std::exchange(call.extras_->running, nullptr);
  const MethodInfo* const method = config_->dispatcher->FindMethod(call.header());
  const auto answer = Save(status, call.extras_->response, *call.response_);
  const std::vector<ServerCall*> waiters =
      config_->saved_answers->End(entry, answer, NothingDone(*method, status), MonotonicNanos());
  for (ServerCall* const waiter : waiters) waiter->AnswerAgain(*answer);
}

void ServerCall::AnswerAgain(const SavedAnswer& answer) {
  if (answer.too_large) {
    return Answer(absl::AbortedError(
        "the call has run; its answer exceeds deduplication.answer_bytes_max and was not kept"));
  }
  if (answer.status.ok()) SetResults(answer, *response_);
  extras_->response = answer.metadata;
  Answer(answer.status);
}

}  // namespace mi7
