#include "transport/slot_pipe/pipe_poll.h"

#include "transport/slot_pipe/slot_pipe_impl.h"

namespace mi7::slot_pipe_internal {

bool PipePoll::MayHave() const { return pipe_->impl_->MayHave(direction_); }

uint32_t PipePoll::Declare() { return pipe_->impl_->event(direction_).Declare(); }

const Atomic<uint32_t>& PipePoll::word() const { return pipe_->impl_->event(direction_).word(); }

void PipePoll::PassOn() {
  if (MayHave()) pipe_->impl_->event(direction_).Notify();
}

}  // namespace mi7::slot_pipe_internal
