#include "transport/buffer_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <new>

#include "absl/base/thread_annotations.h"
#include "base/check.h"
#include "base/fork_guard.h"
#include "base/mutex.h"

#if defined(__SANITIZE_ADDRESS__)
#define MI7_POOL_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MI7_POOL_POISONS 1
#endif
#endif

#ifdef MI7_POOL_POISONS
#include <sanitizer/asan_interface.h>
#endif

namespace mi7::transport {
namespace {

// Size classes are of whole blocks, header included. Class 0 to 5: powers of two from 4 KiB to
// 128 KiB. Above: eight steps for every power of two.
constexpr int kSmallestLog2 = 12;
constexpr int kLargeLog2 = 17;
static_assert(size_t{1} << kLargeLog2 == BufferPool::kLargeBytes);
constexpr int kSmallClasses = kLargeLog2 - kSmallestLog2 + 1;
constexpr int kStepsLog2 = 3;
constexpr int kLargestLog2 = 40;
constexpr int kClasses = kSmallClasses + ((kLargestLog2 - kLargeLog2) << kStepsLog2);
static_assert(kClasses <= 256, "size_class_ has 8 bits");
constexpr int kKinds = 3;  // of Buffer::Kind

constexpr int ClassOf(size_t block_bytes) {
  const int log2 = std::bit_width(block_bytes - 1);  // of the next power of two
  if (log2 <= kLargeLog2) return std::max(log2, kSmallestLog2) - kSmallestLog2;
  const int step_log2 = log2 - 1 - kStepsLog2;
  const size_t above = block_bytes - (size_t{1} << (log2 - 1));
  const size_t steps = (above + (size_t{1} << step_log2) - 1) >> step_log2;  // 1 to 8
  return kSmallClasses + ((log2 - 1 - kLargeLog2) << kStepsLog2) + static_cast<int>(steps) - 1;
}

constexpr size_t BlockBytesOf(int size_class) {
  if (size_class < kSmallClasses) return size_t{1} << (size_class + kSmallestLog2);
  const int large = size_class - kSmallClasses;
  const int log2 = kLargeLog2 + (large >> kStepsLog2);
  const size_t steps = static_cast<size_t>(large & ((1 << kStepsLog2) - 1)) + 1;
  return (size_t{1} << log2) + (steps << (log2 - kStepsLog2));
}
static_assert(ClassOf(1) == 0 && BlockBytesOf(0) == 4096);
static_assert(ClassOf(4096) == 0 && ClassOf(4097) == 1);
static_assert(ClassOf(128 << 10) == 5 && BlockBytesOf(5) == 128 << 10);
static_assert(ClassOf((128 << 10) + 1) == 6 && BlockBytesOf(6) == 144 << 10);
static_assert(ClassOf(256 << 10) == 13 && BlockBytesOf(13) == 256 << 10);
static_assert(BlockBytesOf(ClassOf((64u << 20) + 64)) == 72u << 20);
static_assert(BlockBytesOf(kClasses - 1) == size_t{1} << kLargestLog2);

// Bytes that a thread keeps of one class and kind without locking; at least 2 buffers.
constexpr size_t kThreadBytesMax = 256u << 10;
constexpr auto kThreadCountMax = [] {
  std::array<uint32_t, kSmallClasses> counts{};
  for (int size_class = 0; size_class < kSmallClasses; ++size_class) {
    counts[static_cast<size_t>(size_class)] =
        static_cast<uint32_t>(std::max<size_t>(2, kThreadBytesMax / BlockBytesOf(size_class)));
  }
  return counts;
}();
constexpr uint32_t ThreadCountMax(int size_class) {
  return kThreadCountMax[static_cast<size_t>(size_class)];
}

void Poison([[maybe_unused]] std::byte* data, [[maybe_unused]] size_t size) {
#ifdef MI7_POOL_POISONS
  __asan_poison_memory_region(data, size);
#endif
}
void Unpoison([[maybe_unused]] std::byte* data, [[maybe_unused]] size_t size) {
#ifdef MI7_POOL_POISONS
  __asan_unpoison_memory_region(data, size);
#endif
}

}  // namespace

// The parts of the pool, with access to the links inside buffers.
class BufferPoolParts {
 public:
  struct List {
    Buffer* head = nullptr;
    uint32_t count = 0;

    void Push(Buffer* buffer) {
      buffer->next_ = head;
      head = buffer;
      ++count;
    }
    Buffer* Pop() {
      Buffer* const buffer = head;
      head = buffer->next_;
      --count;
      return buffer;
    }
  };

  // Shared by all threads.
  class Shared {
   public:
    Shared() { ForkGuard::HoldAcrossFork(&mutex_); }
    // Moves up to `wanted` buffers to `to`.
    void Take(int kind, int size_class, uint32_t wanted, List& to) {
      MutexLock lock(&mutex_);
      List& from = lists_[kind][size_class];
      while (wanted-- > 0 && from.head != nullptr) {
        to.Push(from.Pop());
        bytes_ -= BlockBytesOf(size_class);
      }
    }
    // Moves `count` buffers of `from` here, or to the system when the bound is reached.
    void Give(int kind, int size_class, uint32_t count, List& from) {
      List excess;
      {
        MutexLock lock(&mutex_);
        for (; count > 0; --count) {
          Buffer* const buffer = from.Pop();
          if (bytes_ + BlockBytesOf(size_class) > BufferPool::kPooledBytesMax) {
            excess.Push(buffer);
          } else {
            lists_[kind][size_class].Push(buffer);
            bytes_ += BlockBytesOf(size_class);
          }
        }
      }
      FreeAll(excess);
    }
    void Trim() {
      List all;
      {
        MutexLock lock(&mutex_);
        for (auto& kind : lists_) {
          for (List& list : kind) {
            while (list.head != nullptr) all.Push(list.Pop());
          }
        }
        bytes_ = 0;
      }
      FreeAll(all);
    }

   private:
    Mutex mutex_;
    List lists_[kKinds][kClasses] ABSL_GUARDED_BY(mutex_);
    size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  };

  static Shared& shared() {
    static Shared& shared = *new Shared;  // never destroyed: messages may outlive everything
    return shared;
  }

  // One thread's part: no constructor and no destructor, so that reaching it costs nothing.
  // It is flushed by ThreadExit, and not used from then on.
  struct Local {
    enum State : uint8_t { kUnused, kInUse, kGone };
    State state;
    List lists[kKinds][kSmallClasses];
  };
  struct ThreadExit {
    ~ThreadExit() {
      FlushLocal();
      local_.state = Local::kGone;
    }
  };

  // The calling thread's part, or nullptr when the thread is ending.
  static Local* local() {
    if (local_.state == Local::kInUse) [[likely]]
      return &local_;
    return FirstUse();
  }

  static void FlushLocal() {
    for (int kind = 0; kind < kKinds; ++kind) {
      for (int size_class = 0; size_class < kSmallClasses; ++size_class) {
        List& list = local_.lists[kind][size_class];
        shared().Give(kind, size_class, list.count, list);
      }
    }
  }

  using Kind = Buffer::Kind;

  static Buffer* Create(int size_class, Kind kind) {
    static_assert(sizeof(Buffer) <= Buffer::kHeaderBytes);
    static_assert(BufferPool::kKeptBytes == BlockBytesOf(0) - Buffer::kHeaderBytes);
    const size_t bytes = BlockBytesOf(size_class);
    void* memory;
    if (size_class < kSmallClasses) {
      memory = ::operator new (bytes, std::align_val_t{64});
      if (kind != Kind::kPlain) std::memset(memory, 0, bytes);
    } else {
      memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) throw std::bad_alloc();
    }
    return new (memory)
        Buffer(bytes - Buffer::kHeaderBytes, static_cast<uint8_t>(size_class), kind);
  }

  static BufferRef Allocate(size_t bytes, Kind kind) {
    MI7_CHECK(bytes <= (size_t{1} << kLargestLog2) - Buffer::kHeaderBytes, "absurd buffer size");
    return AllocateOf(ClassOf(bytes + Buffer::kHeaderBytes), kind);
  }

  // Inline, so that the common case is a few instructions where class and kind are constants.
  static inline BufferRef AllocateOf(int size_class, Kind kind) {
    List& list = local_.lists[static_cast<int>(kind)][size_class < kSmallClasses ? size_class : 0];
    if (size_class >= kSmallClasses || list.head == nullptr) [[unlikely]] {
      return AllocateSlow(size_class, kind);
    }
    return Reuse(list.Pop());
  }

  static inline void Recycle(Buffer* buffer) {
    const int size_class = buffer->size_class_;
    Poison(buffer->data(), buffer->capacity());
    if (size_class >= kSmallClasses || local_.state != Local::kInUse) [[unlikely]] {
      return RecycleSlow(buffer);
    }
    List& list = local_.lists[static_cast<int>(buffer->kind_)][size_class];
    if (list.count >= ThreadCountMax(size_class)) [[unlikely]]
      return RecycleFull(buffer, list);
    list.Push(buffer);
  }

 private:
  static inline BufferRef Reuse(Buffer* buffer) {
    Unpoison(buffer->data(), buffer->capacity());
    buffer->refs_.store(1, std::memory_order_relaxed);
    return BufferRef(buffer);
  }

  [[gnu::noinline]] static BufferRef AllocateSlow(int size_class, Kind kind) {
    Local* const mine = size_class < kSmallClasses ? local() : nullptr;
    List one;
    List& list = mine != nullptr ? mine->lists[static_cast<int>(kind)][size_class] : one;
    shared().Take(static_cast<int>(kind), size_class,
                  mine != nullptr ? ThreadCountMax(size_class) / 2 : 1, list);
    if (list.head == nullptr) return BufferRef(Create(size_class, kind));
    return Reuse(list.Pop());
  }

  [[gnu::noinline]] static void RecycleSlow(Buffer* buffer) {
    const int size_class = buffer->size_class_;
    Local* const mine = size_class < kSmallClasses ? local() : nullptr;
    if (mine != nullptr) return Recycle(buffer);  // the thread's first use is behind it now
    List one;
    one.Push(buffer);
    shared().Give(static_cast<int>(buffer->kind_), size_class, 1, one);
  }

  static void FreeAll(List& list) {
    while (list.head != nullptr) {
      Buffer* const buffer = list.Pop();
      const int size_class = buffer->size_class_;
      const size_t bytes = BlockBytesOf(size_class);
      Unpoison(buffer->data(), buffer->capacity());
      buffer->~Buffer();
      if (size_class < kSmallClasses) {
        ::operator delete (buffer, std::align_val_t{64});
      } else {
        MI7_CHECK(::munmap(buffer, bytes) == 0, "munmap of a pooled buffer failed");
      }
    }
  }

  [[gnu::noinline]] static void RecycleFull(Buffer* buffer, List& list) {
    GiveColder(static_cast<int>(buffer->kind_), buffer->size_class_, list);
    list.Push(buffer);
  }

  // Moves the half of `list` that was used longest ago to the shared part.
  static void GiveColder(int kind, int size_class, List& list) {
    const uint32_t kept = list.count / 2;
    Buffer* last_kept = list.head;
    for (uint32_t i = 1; i < kept; ++i) last_kept = last_kept->next_;
    List colder{last_kept->next_, list.count - kept};
    last_kept->next_ = nullptr;
    list.count = kept;
    shared().Give(kind, size_class, colder.count, colder);
  }

  static Local* FirstUse() {
    if (local_.state == Local::kGone) return nullptr;
    static thread_local ThreadExit at_exit;
    static_cast<void>(at_exit);
    local_.state = Local::kInUse;
    return &local_;
  }

  static constinit thread_local Local local_;
};

constinit thread_local BufferPoolParts::Local BufferPoolParts::local_{};

BufferRef BufferPool::Allocate(size_t bytes) {
  return BufferPoolParts::Allocate(bytes, BufferPoolParts::Kind::kPlain);
}

BufferRef BufferPool::AllocateZeroed(size_t bytes) {
  return BufferPoolParts::Allocate(bytes, BufferPoolParts::Kind::kZeroed);
}

BufferRef BufferPool::AllocateKept() {
  return BufferPoolParts::AllocateOf(0, BufferPoolParts::Kind::kKept);
}

void BufferPool::Clear(std::byte* data, size_t bytes) {
  constexpr size_t kGiveBackBytes = 32u << 20;
  constexpr uintptr_t kPageBytes = 4096;
  if (bytes >= kGiveBackBytes) {
    // Such a range lies in a mapping of its own. Whole pages only, and none that others share.
    std::byte* const first = data + (-reinterpret_cast<uintptr_t>(data) % kPageBytes);
    const size_t pages_bytes = static_cast<size_t>(data + bytes - first) / kPageBytes * kPageBytes;
    if (::madvise(first, pages_bytes, MADV_DONTNEED) == 0) {
      std::memset(data, 0, static_cast<size_t>(first - data));
      std::memset(first + pages_bytes, 0, static_cast<size_t>(data + bytes - first) - pages_bytes);
      return;
    }
  }
  std::memset(data, 0, bytes);
}

void BufferPool::Trim() {
  BufferPoolParts::FlushLocal();
  BufferPoolParts::shared().Trim();
}

void Buffer::Unref() {
  // A sole owner needs no atomic read-modify-write: nobody else can take a reference.
  if (refs_.load(std::memory_order_acquire) == 1 ||
      refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    BufferPoolParts::Recycle(this);
  }
}

}  // namespace mi7::transport
