// Makes Debian's Abseil visible to ThreadSanitizer.
//
// Debian's Abseil is compiled without -fsanitize=thread, so that TSan sees neither the atomics nor
// the futexes of absl::Mutex and takes correctly locked data for a race. The functions here stand
// before Abseil's own in the order in which the dynamic linker looks, tell TSan what is about to
// happen (<sanitizer/tsan_interface.h>), and call the real ones. Calls between Abseil's libraries
// come through here as well. Only ever linked when TSan is on.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

// The mangled prefix of Debian's inline namespace absl::debian3.
#define MI7_ABSL "_ZN4absl7debian3"
#define MI7_ABSL_CONST "_ZNK4absl7debian3"

// Abseil's own definition of `symbol`, as a function that takes `this` first: so it is on every
// ABI of Debian's that TSan supports.
template <typename Function>
Function* Real(const char* symbol) {
  void* found = dlsym(RTLD_NEXT, symbol);
  if (found == nullptr) {
    std::fprintf(stderr, "third_party/tsan: Abseil has no symbol %s\n", symbol);
    std::abort();
  }
  return reinterpret_cast<Function*>(found);
}

// One public function of Abseil's may call another: only the outermost speaks to TSan.
thread_local int depth = 0;

class Nesting {
 public:
  Nesting() { ++depth; }
  ~Nesting() { --depth; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;
};

// TSan ignores what the thread does between a "pre" and a "post". That is right: it covers Abseil's
// evaluation of other threads' conditions, which happens under a lock that TSan cannot see.
template <typename Call>
auto Acquire(void* mutex, unsigned flags, Call call) {
  if (depth > 0) return call();
  Nesting nesting;
  __tsan_mutex_pre_lock(mutex, flags);
  if constexpr (std::is_void_v<decltype(call())>) {
    call();
    __tsan_mutex_post_lock(mutex, flags, 0);
  } else {
    auto result = call();
    __tsan_mutex_post_lock(mutex, flags, 0);
    return result;
  }
}

template <typename Call>
bool TryAcquire(void* mutex, unsigned flags, Call call) {
  if (depth > 0) return call();
  Nesting nesting;
  flags |= __tsan_mutex_try_lock;
  __tsan_mutex_pre_lock(mutex, flags);
  bool locked = call();
  __tsan_mutex_post_lock(mutex, locked ? flags : flags | __tsan_mutex_try_lock_failed, 0);
  return locked;
}

template <typename Call>
void Release(void* mutex, unsigned flags, Call call) {
  if (depth > 0) return call();
  Nesting nesting;
  __tsan_mutex_pre_unlock(mutex, flags);
  call();
  __tsan_mutex_post_unlock(mutex, flags);
}

// Waiting on a condition: the mutex is given away and taken back. Abseil allows it with a shared
// lock too, which cannot be told apart here; none of our code does that.
template <typename Call>
auto Wait(void* mutex, Call call) {
  if (depth > 0) return call();
  __tsan_mutex_pre_unlock(mutex, 0);
  __tsan_mutex_post_unlock(mutex, 0);
  return Acquire(mutex, 0, call);
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

Mutex::~Mutex() {
  static auto* const real = Real<void(Mutex*)>(MI7_ABSL "5MutexD1Ev");
  __tsan_mutex_destroy(this, 0);
  real(this);
}

void Mutex::Lock() {
  static auto* const real = Real<void(Mutex*)>(MI7_ABSL "5Mutex4LockEv");
  Acquire(this, 0, [&] { real(this); });
}

void Mutex::Unlock() {
  static auto* const real = Real<void(Mutex*)>(MI7_ABSL "5Mutex6UnlockEv");
  Release(this, 0, [&] { real(this); });
}

bool Mutex::TryLock() {
  static auto* const real = Real<bool(Mutex*)>(MI7_ABSL "5Mutex7TryLockEv");
  return TryAcquire(this, 0, [&] { return real(this); });
}

void Mutex::ReaderLock() {
  static auto* const real = Real<void(Mutex*)>(MI7_ABSL "5Mutex10ReaderLockEv");
  Acquire(this, __tsan_mutex_read_lock, [&] { real(this); });
}

void Mutex::ReaderUnlock() {
  static auto* const real = Real<void(Mutex*)>(MI7_ABSL "5Mutex12ReaderUnlockEv");
  Release(this, __tsan_mutex_read_lock, [&] { real(this); });
}

bool Mutex::ReaderTryLock() {
  static auto* const real = Real<bool(Mutex*)>(MI7_ABSL "5Mutex13ReaderTryLockEv");
  return TryAcquire(this, __tsan_mutex_read_lock, [&] { return real(this); });
}

void Mutex::LockWhen(const Condition& condition) {
  static auto* const real =
      Real<void(Mutex*, const Condition&)>(MI7_ABSL "5Mutex8LockWhenERKNS0_9ConditionE");
  Acquire(this, 0, [&] { real(this, condition); });
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  static auto* const real = Real<bool(Mutex*, const Condition&, Duration)>(
      MI7_ABSL "5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return Acquire(this, 0, [&] { return real(this, condition, timeout); });
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  static auto* const real = Real<bool(Mutex*, const Condition&, Time)>(
      MI7_ABSL "5Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return Acquire(this, 0, [&] { return real(this, condition, deadline); });
}

void Mutex::ReaderLockWhen(const Condition& condition) {
  static auto* const real =
      Real<void(Mutex*, const Condition&)>(MI7_ABSL "5Mutex14ReaderLockWhenERKNS0_9ConditionE");
  Acquire(this, __tsan_mutex_read_lock, [&] { real(this, condition); });
}

void Mutex::Await(const Condition& condition) {
  static auto* const real =
      Real<void(Mutex*, const Condition&)>(MI7_ABSL "5Mutex5AwaitERKNS0_9ConditionE");
  Wait(this, [&] { real(this, condition); });
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static auto* const real = Real<bool(Mutex*, const Condition&, Duration)>(
      MI7_ABSL "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  return Wait(this, [&] { return real(this, condition, timeout); });
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  static auto* const real = Real<bool(Mutex*, const Condition&, Time)>(
      MI7_ABSL "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  return Wait(this, [&] { return real(this, condition, deadline); });
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const real = Real<void(CondVar*, Mutex*)>(MI7_ABSL "7CondVar4WaitEPNS0_5MutexE");
  ::Wait(mutex, [&] { real(this, mutex); });
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto* const real = Real<bool(CondVar*, Mutex*, Duration)>(
      MI7_ABSL "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  return ::Wait(mutex, [&] { return real(this, mutex, timeout); });
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static auto* const real = Real<bool(CondVar*, Mutex*, Time)>(
      MI7_ABSL "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  return ::Wait(mutex, [&] { return real(this, mutex, deadline); });
}

// A notification's flag is written with release and read with acquire; the read may be inlined into
// our code. Its Mutex is its first member and the flag follows.
static void* FlagOf(const Notification* notification) {
  static_assert(sizeof(Notification) == 2 * sizeof(Mutex));
  return const_cast<char*>(reinterpret_cast<const char*>(notification)) + sizeof(Mutex);
}

void Notification::Notify() {
  static auto* const real = Real<void(Notification*)>(MI7_ABSL "12Notification6NotifyEv");
  __tsan_release(FlagOf(this));
  real(this);
}

void Notification::WaitForNotification() const {
  static auto* const real =
      Real<void(const Notification*)>(MI7_ABSL_CONST "12Notification19WaitForNotificationEv");
  real(this);
  __tsan_acquire(FlagOf(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static auto* const real = Real<bool(const Notification*, Duration)>(
      MI7_ABSL_CONST "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  bool notified = real(this, timeout);
  if (notified) __tsan_acquire(FlagOf(this));
  return notified;
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  static auto* const real = Real<bool(const Notification*, Time)>(
      MI7_ABSL_CONST "12Notification31WaitForNotificationWithDeadlineENS0_4TimeE");
  bool notified = real(this, deadline);
  if (notified) __tsan_acquire(FlagOf(this));
  return notified;
}

bool BlockingCounter::DecrementCount() {
  static auto* const real =
      Real<bool(BlockingCounter*)>(MI7_ABSL "15BlockingCounter14DecrementCountEv");
  __tsan_release(this);
  return real(this);
}

void BlockingCounter::Wait() {
  static auto* const real = Real<void(BlockingCounter*)>(MI7_ABSL "15BlockingCounter4WaitEv");
  real(this);
  __tsan_acquire(this);
}

// The count of references to a status' text: whoever frees it comes after everybody who read it.
// One lock around the note and the act, or two threads could give up their references in one order
// and tell TSan another.
void Status::UnrefNonInlined(uintptr_t rep) {
  static auto* const real = Real<void(uintptr_t)>(MI7_ABSL "6Status15UnrefNonInlinedEm");
  static absl::Mutex* const mutex = new absl::Mutex;  // threads may outlive static objects
  MutexLock lock(mutex);
  real(rep);
}

ABSL_NAMESPACE_END
}  // namespace absl
