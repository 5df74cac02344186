#include "transport/slot_pipe/slots.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/slot_pipe/slot_pipe_impl.h"

namespace mi7 {

using slot_pipe_internal::AboutPipe;
using slot_pipe_internal::Claim;
using slot_pipe_internal::Outcome;
using slot_pipe_internal::Protocol;
using slot_pipe_internal::SlotHeader;

namespace {

absl::Status NoSlot() {
  return slot_pipe_internal::WithError(
      SlotPipeError::kWrongSlotState,
      absl::FailedPreconditionError("there is no slot in this handle"));
}

}  // namespace

SlotRef slot_pipe_internal::Handle::Detach() {
  SlotPipe* const pipe = std::exchange(pipe_, nullptr);
  if (pipe == nullptr) return {};
  SlotRef ref = Handle::ref();
  ref.serial = pipe->impl_->refs.Issue(ref.index);
  return ref;
}

absl::Span<std::byte> WriteSlot::span() const {
  return pipe_ == nullptr ? absl::Span<std::byte>() : absl::MakeSpan(payload_, pipe_->slot_bytes());
}

absl::Status WriteSlot::Send(size_t size, PayloadKind kind) {
  if (pipe_ == nullptr) return NoSlot();
  SlotPipe::Impl& impl = *pipe_->impl_;
  if (absl::Status usable = impl.Usable(); !usable.ok()) return usable;
  if (absl::Status fits = impl.Fits(size); !fits.ok()) return fits;
  const slot_pipe_internal::Geometry& geometry = impl.region.geometry();
  SlotHeader& header = impl.region.slot(claim_.slot);
  // Relaxed: published by the commit (W1).
  header.size.store(static_cast<uint32_t>(size), std::memory_order_relaxed);
  header.kind.store(static_cast<uint32_t>(kind), std::memory_order_relaxed);
  if ((geometry.flags & slot_pipe_internal::kFlagChecksum) != 0) {
    header.checksum.store(slot_pipe_internal::Checksum(payload_, static_cast<uint32_t>(size),
                                                       static_cast<uint32_t>(kind)),
                          std::memory_order_relaxed);
  }
  const Outcome outcome = impl.protocol.Send(claim_);
  if (outcome != Outcome::kDone) return impl.Failed(outcome, claim_.slot, "send");
  pipe_ = nullptr;
  impl.ready.Notify();
  return absl::OkStatus();
}

absl::Status WriteSlot::SendBytes(absl::string_view bytes) {
  if (pipe_ != nullptr && bytes.size() <= pipe_->slot_bytes()) {
    std::memcpy(payload_, bytes.data(), bytes.size());
  }
  return Send(bytes.size());
}

absl::Status WriteSlot::GiveBack() {
  if (pipe_ == nullptr) return NoSlot();
  SlotPipe::Impl& impl = *pipe_->impl_;
  if (absl::Status usable = impl.Usable(); !usable.ok()) return usable;
  pipe_ = nullptr;
  impl.EndInProgress(claim_.slot);
  const Outcome outcome = impl.protocol.GiveBack(claim_);
  if (outcome != Outcome::kDone) return impl.Failed(outcome, claim_.slot, "give back");
  impl.empty.Notify();
  return absl::OkStatus();
}

absl::Status ReadSlot::Release() {
  if (pipe_ == nullptr) return NoSlot();
  SlotPipe::Impl& impl = *pipe_->impl_;
  if (absl::Status usable = impl.Usable(); !usable.ok()) return usable;
  pipe_ = nullptr;
  const Outcome outcome = impl.protocol.Release(claim_);
  if (outcome != Outcome::kDone) return impl.Failed(outcome, claim_.slot, "release");
  impl.empty.Notify();
  return absl::OkStatus();
}

template <typename Step>
absl::Status ReadSlot::PutBack(Step step) {
  if (pipe_ == nullptr) return NoSlot();
  SlotPipe::Impl& impl = *pipe_->impl_;
  if (absl::Status usable = impl.Usable(); !usable.ok()) return usable;
  impl.EndInProgress(claim_.slot);
  const Outcome outcome = step(impl.protocol);
  if (outcome != Outcome::kRingFull && outcome != Outcome::kCorrupt) pipe_ = nullptr;
  if (outcome != Outcome::kDone) return impl.Failed(outcome, claim_.slot, "return");
  impl.ready.Notify();
  return absl::OkStatus();
}

absl::Status ReadSlot::Return() {
  return PutBack(
      [this](Protocol& protocol) { return protocol.Return(claim_, claim_.word.attempts()); });
}
absl::Status ReadSlot::ReturnUnseen() {
  // Not below none, whatever was written over the count.
  return PutBack([this](Protocol& protocol) {
    return protocol.Return(claim_, std::max(claim_.word.attempts(), 1u) - 1);
  });
}
absl::Status ReadSlot::Redrive() {
  return PutBack([this](Protocol& protocol) { return protocol.Redrive(claim_); });
}

void ReadSlot::Drop() {
  // What else goes wrong stays so: there is damage, or it is the parent's.
  SlotPipe::Impl& impl = *pipe_->impl_;
  if (!absl::IsResourceExhausted(Return())) return;
  MutexLock lock(&impl.dropping);
  impl.dropped.push_back(claim_);
  // Relaxed: whoever sees it takes the lock.
  impl.any_dropped.store(true, std::memory_order_relaxed);
}

void SlotPipe::Impl::ReturnDropped() {
  bool returned = false;
  {
    MutexLock lock(&dropping);
    const auto goes = [&](const Claim& claim) {
      const Outcome outcome = protocol.Return(claim, claim.word.attempts());
      returned |= outcome == Outcome::kDone;
      return outcome != Outcome::kRingFull;
    };
    dropped.erase(std::remove_if(dropped.begin(), dropped.end(), goes), dropped.end());
    any_dropped.store(!dropped.empty(), std::memory_order_relaxed);
  }
  if (returned) ready.Notify();
}

}  // namespace mi7
