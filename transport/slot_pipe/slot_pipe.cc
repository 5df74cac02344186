#include "transport/slot_pipe/slot_pipe.h"

#include <errno.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "transport/slot_pipe/slot_pipe_impl.h"

namespace mi7 {

using slot_pipe_internal::AboutPipe;
using slot_pipe_internal::Claim;
using slot_pipe_internal::Event;
using slot_pipe_internal::Geometry;
using slot_pipe_internal::Outcome;
using slot_pipe_internal::Participants;
using slot_pipe_internal::PipeFile;
using slot_pipe_internal::SlotHeader;
using slot_pipe_internal::SlotPhase;
using slot_pipe_internal::SlotWord;
using slot_pipe_internal::Waited;

namespace {

Geometry GeometryOf(const PipeOptions& options) {
  return {.slots = options.slots,
          .slot_bytes = options.slot_bytes,
          .participants = options.participants,
          .attempts_max = options.attempts_max,
          .flags = (options.checksum ? slot_pipe_internal::kFlagChecksum : 0) |
                   (options.group.has_value() ? slot_pipe_internal::kFlagGroup : 0)};
}

// Says in what an existing pipe is other than wanted.
absl::Status CheckSame(const Geometry& is, const Geometry& wanted) {
  if (is == wanted) return absl::OkStatus();
  const auto differs = [](absl::string_view what, uint32_t has, uint32_t want) {
    return has == want ? "" : absl::StrCat(" ", what, " ", has, " instead of ", want, ";");
  };
  return slot_pipe_internal::WithError(
      SlotPipeError::kGeometryMismatch,
      absl::FailedPreconditionError(
          absl::StrCat("it exists with other options:", differs("slots", is.slots, wanted.slots),
                       differs("slot_bytes", is.slot_bytes, wanted.slot_bytes),
                       differs("participants", is.participants, wanted.participants),
                       differs("attempts_max", is.attempts_max, wanted.attempts_max),
                       differs("flags (1: checksum, 2: group)", is.flags, wanted.flags),
                       " connect to it as it is, or remove it first")));
}

// Who joins a pipe that is being removed starts over: `join` is called again while it ends with
// ABORTED. To remove takes no time, unless whoever does it is stopped: so much, then.
template <typename Join>
absl::StatusOr<std::unique_ptr<SlotPipe>> WhileItIsRemoved(Join join) {
  const int64_t until_ns = SystemNanos() + 1'000'000'000;
  for (;;) {
    absl::StatusOr<std::unique_ptr<SlotPipe>> pipe = join();
    if (!absl::IsAborted(pipe.status()) || SystemNanos() > until_ns) return pipe;
    ::sched_yield();
  }
}

}  // namespace

// --- make and join

absl::StatusOr<std::unique_ptr<SlotPipe>> SlotPipe::Create(absl::string_view name,
                                                           const PipeOptions& options,
                                                           const JoinOptions& join) {
  const auto layout = slot_pipe_internal::MakeLayout(GeometryOf(options));
  if (!layout.ok()) return AboutPipe(name, layout.status());
  return WhileItIsRemoved([&]() -> absl::StatusOr<std::unique_ptr<SlotPipe>> {
    auto file = PipeFile::Create(name, *layout, options.group);
    if (!file.ok()) return file.status();
    return Join(*std::move(file), name, join);
  });
}

absl::StatusOr<std::unique_ptr<SlotPipe>> SlotPipe::Connect(absl::string_view name,
                                                            const JoinOptions& join) {
  return WhileItIsRemoved([&]() -> absl::StatusOr<std::unique_ptr<SlotPipe>> {
    auto file = PipeFile::Open(name, PipeFile::Access::kReadWrite);
    if (!file.ok()) return file.status();
    return Join(*std::move(file), name, join);
  });
}

absl::StatusOr<std::unique_ptr<SlotPipe>> SlotPipe::OpenOrCreate(absl::string_view name,
                                                                 const PipeOptions& options,
                                                                 const JoinOptions& join) {
  const Geometry wanted = GeometryOf(options);
  return WhileItIsRemoved([&]() -> absl::StatusOr<std::unique_ptr<SlotPipe>> {
    // Others may create and remove it between two of our steps.
    absl::Status last;
    for (int round = 0; round < 100; ++round) {
      auto file = PipeFile::Open(name, PipeFile::Access::kReadWrite);
      if (file.ok()) {
        if (absl::Status same = CheckSame((*file)->region().geometry(), wanted); !same.ok()) {
          return AboutPipe(name, same);
        }
        return Join(*std::move(file), name, join);
      }
      if (!absl::IsNotFound(file.status())) return file.status();
      auto created = Create(name, options, join);
      if (created.ok() || !absl::IsAlreadyExists(created.status())) return created;
      last = created.status();
    }
    return last;
  });
}

absl::StatusOr<std::unique_ptr<SlotPipe>> SlotPipe::Join(std::unique_ptr<PipeFile> file,
                                                         absl::string_view name,
                                                         const JoinOptions& join) {
  Participants participants(file->fd(), file->region());
  const absl::StatusOr<uint16_t> me =
      participants.Join(join.name.empty() ? program_invocation_short_name : join.name);
  if (!me.ok()) return AboutPipe(name, me.status());
  std::unique_ptr<SlotPipe> pipe(
      new SlotPipe(std::make_unique<Impl>(std::move(file), name, *me, join.wait)));
  pipe->Recover();
  // Joining may have swept the one whose place it took.
  pipe->impl_->ready.NotifyAll();
  pipe->impl_->empty.NotifyAll();
  return pipe;
}

SlotPipe::Impl::Impl(std::unique_ptr<PipeFile> the_file, absl::string_view the_name, uint16_t me,
                     transport::WaitPolicy the_wait)
    : file(std::move(the_file)),
      region(file->region()),
      name(the_name),
      wait(the_wait),
      protocol(region, me),
      ready(region.words().ready_event),
      empty(region.words().empty_event),
      fork_guard(file->fork_guard()),
      no_empty_slot(
          AboutPipe(name, SlotPipeError::kPipeFull,
                    absl::ResourceExhaustedError(absl::StrCat(
                        "all ", region.geometry().slots, " slots are in use; fetch, or wait")))),
      no_message(AboutPipe(name, SlotPipeError::kPipeEmpty,
                           absl::UnavailableError("no message is ready; wait for one"))),
      refs(region.geometry().slots),
      participants(file->fd(), region) {}

SlotPipe::SlotPipe(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

SlotPipe::~SlotPipe() {
  if (impl_->fork_guard.forked()) return;  // the parent lives on
  const uint16_t me = impl_->protocol.me();
  bool complete;
  {
    MutexLock lock(&impl_->recovery);
    complete = impl_->protocol.Sweep(me).complete;
    // Else our place stays taken, and whoever comes next takes us for dead and goes on.
    if (complete) impl_->participants.Leave(me);
  }
  impl_->ready.NotifyAll();
  impl_->empty.NotifyAll();
}

// --- errors

absl::Status SlotPipe::Impl::Forked() const {
  return AboutPipe(name, SlotPipeError::kForked,
                   absl::FailedPreconditionError(
                       "this process is a fork of the one that connected; connect again"));
}

absl::Status SlotPipe::Impl::TooLarge(size_t size) const {
  return AboutPipe(name, SlotPipeError::kMessageTooLarge,
                   absl::InvalidArgumentError(absl::StrCat(
                       "a message of ", size, " bytes is larger than a slot, which has ",
                       region.geometry().slot_bytes)));
}

absl::Status SlotPipe::Impl::Corrupt() const {
  return AboutPipe(name, SlotPipeError::kDamaged,
                   absl::DataLossError("its shared memory contradicts itself: it was "
                                       "overwritten; remove it and create it anew"));
}

absl::Status SlotPipe::Impl::WrongState(uint32_t index, absl::string_view what) const {
  // Relaxed: for a text.
  const SlotWord word(index < region.geometry().slots
                          ? region.slot(index).word.load(std::memory_order_relaxed)
                          : 0);
  const absl::string_view states[] = {
      "empty", "writing", "ready", "reading", "requeue", "dead letter", "reading dead letter", "?"};
  return AboutPipe(
      name, SlotPipeError::kWrongSlotState,
      absl::FailedPreconditionError(absl::StrCat(
          "slot ", index, " is not this participant's to ", what,
          " (any more), or not by this SlotRef: it is ", states[static_cast<size_t>(word.phase())],
          ", generation ", word.generation())));
}

absl::Status SlotPipe::Impl::Failed(Outcome outcome, uint32_t index, absl::string_view what) const {
  switch (outcome) {
    case Outcome::kDone:
      return absl::OkStatus();
    case Outcome::kWrongState:
    case Outcome::kNothing:
      return WrongState(index, what);
    case Outcome::kRingFull:
      return AboutPipe(name, SlotPipeError::kRingFull,
                       absl::ResourceExhaustedError(
                           "its order ring is full of what crashes left; fetch, and try "
                           "again"));
    case Outcome::kCorrupt:
      break;
  }
  return Corrupt();
}

bool SlotPipe::Impl::IsToWrite(SlotRef ref) {
  return SlotWord(ref.word).phase() == SlotPhase::kWriting;
}

bool SlotPipe::Impl::IsToRead(SlotRef ref) { return SlotWord(ref.word).BeingRead(); }

bool SlotPipe::Impl::Has(SlotRef ref) const {
  // Relaxed: nobody but us changes a slot that is ours, so when it is that word the operation that
  // made it was ours: its thread acquired, and whoever hands a SlotRef to another thread
  // synchronizes with that. When it is another word the slot is not touched.
  return ref.index < region.geometry().slots && SlotWord(ref.word).OwnedBy(protocol.me()) &&
         region.slot(ref.index).word.load(std::memory_order_relaxed) == ref.word;
}

// --- recovery

uint32_t SlotPipe::Impl::RecoverNow() {
  Participants::Recovered recovered;
  {
    MutexLock lock(&recovery);
    recovered = participants.Recover(protocol.me());
    protocol.hints().Repair();
  }
  if (recovered.participants != 0) {
    ready.NotifyAll();
    empty.NotifyAll();
  }
  return recovered.participants;
}

bool SlotPipe::Impl::MaybeRecover() {
  // Whoever moves the time on looks. Relaxed, the load and both ends of the compare-and-swap: the
  // word says when to look and nothing about what there is to see, which is ordered by the locks of
  // the dead and the words themselves; an old value costs a compare-and-swap that fails, after
  // which another has looked. Time that lies far ahead was written under another clock (a time
  // namespace), or is damage.
  if (any_dropped.load(std::memory_order_relaxed)) ReturnDropped();
  std::atomic<int64_t>& next = region.words().next_check_ns;
  const int64_t now_ns = CoarseNanos();
  int64_t next_ns = next.load(std::memory_order_relaxed);
  if (now_ns < next_ns && next_ns - now_ns <= 2 * slot_pipe_internal::kLookAgainNs) {
    look_at_ns_.store(next_ns, std::memory_order_relaxed);
    return false;
  }
  const int64_t again_ns = now_ns + slot_pipe_internal::kLookAgainNs;
  look_at_ns_.store(again_ns, std::memory_order_relaxed);
  if (!next.compare_exchange_strong(next_ns, again_ns, std::memory_order_relaxed)) return false;
  return !fork_guard.forked() && RecoverNow() != 0;
}

uint32_t SlotPipe::Recover() { return impl_->Usable().ok() ? impl_->RecoverNow() : 0; }

// --- hold

Waited SlotPipe::Impl::WaitToHold(Deadline deadline, Claim& claim) {
  return Wait(
      empty, deadline, [&] { return protocol.Hold(claim); }, [&] { return protocol.MayHold(); });
}

absl::StatusOr<WriteSlot> SlotPipe::TryHold() {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  impl_->Tick();
  Claim claim;
  if (impl_->protocol.Hold(claim) != Outcome::kDone &&
      (!impl_->MaybeRecover() || impl_->protocol.Hold(claim) != Outcome::kDone)) {
    return impl_->no_empty_slot;
  }
  return WriteSlot(this, claim, impl_->region.payload(claim.slot));
}

absl::StatusOr<WriteSlot> SlotPipe::Hold(Deadline deadline) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  impl_->Tick();
  Claim claim;
  // Here already, without all that it takes to wait.
  if (impl_->protocol.Hold(claim) == Outcome::kDone) [[likely]]
    return WriteSlot(this, claim, impl_->region.payload(claim.slot));
  switch (impl_->WaitToHold(deadline, claim)) {
    case Waited::kDone:
      return WriteSlot(this, claim, impl_->region.payload(claim.slot));
    case Waited::kDeadline:
      return AboutPipe(name(), SlotPipeError::kPipeFull,
                       absl::DeadlineExceededError(absl::StrCat(
                           "all ", slots(), " slots are in use; fetch, or wait longer")));
    case Waited::kCancelled:
      return AboutPipe(name(), SlotPipeError::kCancelled,
                       absl::CancelledError("Cancel() was called"));
    case Waited::kCorrupt:
      break;
  }
  return impl_->Corrupt();
}

absl::Status SlotPipe::SendBytes(absl::string_view bytes, Deadline deadline) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  // Before it waits for a slot: no slot will do.
  if (absl::Status fits = impl_->Fits(bytes.size()); !fits.ok()) return fits;
  absl::StatusOr<WriteSlot> slot = Hold(deadline);
  return slot.ok() ? slot->SendBytes(bytes) : slot.status();
}

absl::Status SlotPipe::TrySendBytes(absl::string_view bytes) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  if (absl::Status fits = impl_->Fits(bytes.size()); !fits.ok()) return fits;
  absl::StatusOr<WriteSlot> slot = TryHold();
  return slot.ok() ? slot->SendBytes(bytes) : slot.status();
}

// --- fetch

Waited SlotPipe::Impl::WaitToFetch(Deadline deadline, Claim& claim) {
  return Wait(
      ready, deadline, [&] { return protocol.Fetch(claim); }, [&] { return protocol.MayFetch(); });
}

ReadSlot SlotPipe::Impl::MakeReadSlot(SlotPipe* pipe, const Claim& claim) const {
  // Read once. Relaxed: the fetch has acquired what the sender wrote (W1).
  const SlotHeader& header = region.slot(claim.slot);
  const uint32_t size = header.size.load(std::memory_order_relaxed);
  const uint32_t kind = header.kind.load(std::memory_order_relaxed);
  return ReadSlot(pipe, claim, region.payload(claim.slot), size, static_cast<PayloadKind>(kind));
}

bool SlotPipe::Impl::Possible(const ReadSlot& slot) const {
  return slot.size() <= region.geometry().slot_bytes &&
         static_cast<uint32_t>(slot.kind()) <= static_cast<uint32_t>(PayloadKind::kCapnp);
}

bool SlotPipe::Impl::Sound(const ReadSlot& slot) const {
  return Possible(slot) &&
         ((region.geometry().flags & slot_pipe_internal::kFlagChecksum) == 0 ||
          // Relaxed: as size and kind (W1).
          region.slot(slot.index()).checksum.load(std::memory_order_relaxed) ==
              slot_pipe_internal::Checksum(slot.data(), static_cast<uint32_t>(slot.size()),
                                           static_cast<uint32_t>(slot.kind())));
}

absl::Status SlotPipe::Impl::Overwritten(ReadSlot& slot) {
  slot.pipe_ = nullptr;
  protocol.Bury(slot.claim_);
  return AboutPipe(
      name, SlotPipeError::kOverwritten,
      absl::DataLossError(absl::StrCat("the message in slot ", slot.index(),
                                       " was overwritten; it is among the dead letters now")));
}

absl::StatusOr<ReadSlot> SlotPipe::Impl::Open(SlotPipe* pipe, const Claim& claim) {
  ReadSlot slot = MakeReadSlot(pipe, claim);
  if (Sound(slot)) [[likely]]
    return slot;
  return Overwritten(slot);
}

absl::StatusOr<ReadSlot> SlotPipe::TryFetch() {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  impl_->Tick();
  Claim claim;
  Outcome outcome = impl_->protocol.Fetch(claim);
  if (outcome == Outcome::kNothing && impl_->MaybeRecover()) outcome = impl_->protocol.Fetch(claim);
  if (outcome == Outcome::kDone) return impl_->Open(this, claim);
  return outcome == Outcome::kNothing ? impl_->no_message : impl_->Corrupt();
}

absl::StatusOr<ReadSlot> SlotPipe::Fetch(Deadline deadline) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  impl_->Tick();
  Claim claim;
  // As in Hold.
  if (impl_->protocol.Fetch(claim) == Outcome::kDone) [[likely]]
    return impl_->Open(this, claim);
  switch (impl_->WaitToFetch(deadline, claim)) {
    case Waited::kDone:
      return impl_->Open(this, claim);
    case Waited::kDeadline:
      return AboutPipe(name(), SlotPipeError::kPipeEmpty,
                       absl::DeadlineExceededError("no message came"));
    case Waited::kCancelled:
      return AboutPipe(name(), SlotPipeError::kCancelled,
                       absl::CancelledError("Cancel() was called"));
    case Waited::kCorrupt:
      break;
  }
  return impl_->Corrupt();
}

SlotPipe::MessageRange SlotPipe::Messages(Deadline deadline) {
  return MessageRange(this, deadline, MessageRange::Of::kMessages);
}

void SlotPipe::MessageRange::Next() {
  message_ = ReadSlot();
  absl::StatusOr<ReadSlot> next =
      of_ == Of::kMessages ? pipe_->Fetch(deadline_) : pipe_->TryFetchDeadLetterFrom(from_);
  status_ = next.status();
  if (!next.ok()) return;
  message_ = *std::move(next);
  from_ = message_.index() + 1;
}

// --- the index form

absl::StatusOr<WriteSlot> SlotPipe::Writing(SlotRef ref) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  if (!impl_->IsToWrite(ref) || !impl_->Has(ref) || !impl_->refs.Redeem(ref.index, ref.serial)) {
    return impl_->WrongState(ref.index, "write in");
  }
  return WriteSlot(this, Claim{ref.index, SlotWord(ref.word)}, impl_->region.payload(ref.index));
}

absl::StatusOr<ReadSlot> SlotPipe::Reading(SlotRef ref) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  if (!impl_->IsToRead(ref) || !impl_->Has(ref) || !impl_->refs.Redeem(ref.index, ref.serial)) {
    return impl_->WrongState(ref.index, "read");
  }
  // The memory may have been overwritten since it was fetched.
  const SlotWord word(ref.word);
  ReadSlot slot = impl_->MakeReadSlot(this, Claim{ref.index, word});
  if (word.phase() == SlotPhase::kReadingDeadLetter) return AsDeadLetter(std::move(slot));
  if (!impl_->Possible(slot)) return impl_->Overwritten(slot);
  return slot;
}

absl::Status SlotPipe::MarkInProgress(SlotRef ref) {
  if (absl::Status usable = impl_->Usable(); !usable.ok()) return usable;
  if ((!impl_->IsToWrite(ref) && !impl_->IsToRead(ref)) || !impl_->Has(ref) ||
      !impl_->refs.Issued(ref.index, ref.serial)) {
    return impl_->WrongState(ref.index, "hand on");
  }
  // Relaxed: for people only. It ends by itself when the word changes.
  impl_->region.slot(ref.index).handed.store(ref.word, std::memory_order_relaxed);
  return absl::OkStatus();
}

// --- the rest

void SlotPipe::Cancel() {
  // Before the events change, which are read after it: a sleeper that misses it finds its word
  // changed (event.h).
  impl_->cancelled.store(true, std::memory_order_seq_cst);
  impl_->ready.NotifyAll();
  impl_->empty.NotifyAll();
}

// Acquire: who sees it sees what was done before Cancel().
bool SlotPipe::cancelled() const { return impl_->cancelled.load(std::memory_order_acquire); }

// Without `recovery`, which nobody may be there to unlock in a forked child, and which List does
// not need.
PipeStatus SlotPipe::Status() const ABSL_NO_THREAD_SAFETY_ANALYSIS {
  return slot_pipe_internal::StatusOf(impl_->region, impl_->participants, impl_->name,
                                      impl_->file->created_unix_ns(), impl_->protocol.me(),
                                      impl_->fork_guard.forked());
}

const std::string& SlotPipe::name() const { return impl_->name; }
uint32_t SlotPipe::slots() const { return impl_->region.geometry().slots; }
uint32_t SlotPipe::slot_bytes() const { return impl_->region.geometry().slot_bytes; }
uint32_t SlotPipe::last_hold_probes() const { return impl_->protocol.last_hold_probes(); }
uint64_t SlotPipe::extra_fetch_probes() const { return impl_->protocol.extra_fetch_probes(); }

}  // namespace mi7
