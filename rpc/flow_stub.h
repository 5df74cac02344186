#pragma once

// FlowStub: the base of generated clients whose interface has Cap'n Proto's `-> stream` methods.
//
//   auto request = sink.Write();
//   request->setPart(part);
//   absl::Status sent = request.Send().Wait();          // or co_await, or Then()
//   ...
//   absl::Status written = sink.FinishStream().Wait();  // all of them were answered
//
// Each `-> stream` call is an ordinary call, which the service answers without results; calls of
// one connection begin in their order. Sending completes when the next call may be sent: when the
// bytes of those that are not answered are below Limits::stream_window_bytes of the channel. A call
// that fails makes the following ones fail with its status, unsent, until FinishStream has told it.
// Those that have certainly not run are made again by themselves, in their order, unless one behind
// them has run or may have (flow_group.h, docs/RETRIES.md); until then the next one waits.

#include <coroutine>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "rpc/flow_group.h"
#include "rpc/request.h"
#include "rpc/stub.h"

namespace mi7 {

// A `-> stream` call under way, or FinishStream: wait for it once, in one of three ways, and not
// while another one of the stub and its copies is waited for: that ends at once with
// FAILED_PRECONDITION. Dropping it takes nothing back; canceller() does, and so does a coroutine
// that is destroyed while it awaits it.
class [[nodiscard]] FlowSending {
 public:
  // `is_call`: that the group has sent last.
  FlowSending(FlowGroupRef group, absl::Status refused, bool is_call)
      : group_(std::move(group)), refused_(std::move(refused)), is_call_(is_call) {}

  // Ends the call from anywhere, as long as it is not answered, as CANCELLED, with which the
  // following ones then fail as with any other failure. To be asked for before the next call; empty
  // for FinishStream, and for a call that was not sent.
  CallCanceller canceller() const {
    return is_call_ && refused_.ok() ? group_->canceller() : CallCanceller();
  }

  // Blocks; the calls' deadlines bound it. FAILED_PRECONDITION on a thread that would wait for
  // itself (a callback's of the same channel).
  absl::Status Wait() {
    if (!refused_.ok()) return refused_;
    if (absl::Status waited = group_->Await(); !waited.ok()) return waited;
    return group_->result();
  }

  // Calls `callback(absl::Status)` once: on the thread on which a call is answered, or right here
  // when it is completed already, or, right here being inside another callback, after that one has
  // returned. Captures up to 48 bytes cost no allocation.
  template <typename F>
  void Then(F callback) {
    FlowGroup* const group = group_.get();
    if (refused_.ok()) refused_ = group->BeginWait();
    if (!refused_.ok()) return callback(refused_);
    group->OnReadyInTurn([callback = std::move(callback), group = std::move(group_)]() mutable {
      callback(group->result());
    });
  }

  // A coroutine that is destroyed while it waits, or a handler's that is stopped here because its
  // caller has given up (ServerContext::StopWhenCancelled), takes back the call that was sent last,
  // or, in FinishStream, all that are not answered: their servers are told at once, and the
  // following calls fail with CANCELLED until FinishStream has told it.
  struct Awaiter {
    FlowGroupRef group;
    absl::Status refused;
    bool waits = false;
    bool await_ready() {
      if (refused.ok()) refused = group->BeginWait();
      return !refused.ok() || group->Ready();
    }
    bool await_suspend(std::coroutine_handle<> coroutine) {
      // Not through `this` afterwards: the coroutine may resume and end before OnReady returns.
      waits = true;
      return group->OnReady([coroutine] { coroutine.resume(); });
    }
    absl::Status await_resume() {
      waits = false;
      return refused.ok() ? group->result() : refused;
    }
    // In place of await_resume, for a coroutine that goes no further.
    void ResumeToStop() {
      waits = false;
      if (refused.ok()) group->Stop();
    }
    // A coroutine that is destroyed while it waits must not be resumed.
    ~Awaiter() {
      if (waits) group->Abandon();
    }
  };
  Awaiter operator co_await() && { return Awaiter{group_, std::move(refused_)}; }

 private:
  FlowGroupRef group_;
  absl::Status refused_;  // nothing was sent, and nothing is to be waited for
  bool is_call_;
};

// A `-> stream` call under construction. `request->` reaches the parameters' Builder.
template <typename P>
class [[nodiscard]] FlowRequest {
 public:
  FlowRequest(ClientCallRef call, FlowGroupRef group)
      : call_(std::move(call)),
        group_(std::move(group)),
        params_(call_->request().template initRoot<P>()) {}
  FlowRequest(FlowRequest&&) noexcept = default;
  FlowRequest& operator=(FlowRequest&&) noexcept = default;

  typename P::Builder* operator->() {
    MI7_CHECK(call_, "FlowRequest: used after Send or a move");
    return &params_;
  }
  typename P::Builder& operator*() { return *operator->(); }

  // Sends the call; the Builder must not be used any more. Once.
  FlowSending Send() {
    MI7_CHECK(call_, "FlowRequest::Send called twice or after a move");
    absl::Status sent = group_->Send(std::move(call_));
    return FlowSending(group_, std::move(sent), /*is_call=*/true);
  }

 private:
  ClientCallRef call_;
  FlowGroupRef group_;
  typename P::Builder params_;
};

// Thread-safe as Stub is, but for its `-> stream` methods and FinishStream, which one thread at a
// time calls through a stub and its copies: they share one window.
class FlowStub : public Stub {
 public:
  explicit FlowStub(std::shared_ptr<Channel> channel)
      : Stub(std::move(channel)),
        group_(FlowGroup::New(this->channel()->limits().stream_window_bytes)) {}

  // Completes when every `-> stream` call made so far is answered: OK, or the first failure, with
  // which they then have been told. FAILED_PRECONDITION, at once, while a callback or coroutine
  // still waits for the last call.
  FlowSending FinishStream() const {
    return FlowSending(group_, group_->Finish(), /*is_call=*/false);
  }

 protected:
  ~FlowStub() = default;
  FlowStub(const FlowStub&) = default;
  FlowStub& operator=(const FlowStub&) = default;

  template <typename P>
  FlowRequest<P> NewFlowRequest(const InterfaceInfo& service, const MethodInfo& method,
                                const CallOptions& options) const {
    return FlowRequest<P>(NewCall(service, method, options), group_);
  }

 private:
  FlowGroupRef group_;
};

}  // namespace mi7
