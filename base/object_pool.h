#pragma once

// Freed memory blocks for objects of one type, kept for the next ones, so that objects made once a
// call cost no heap allocation once warm.
//
// Each thread has a cache of its own. Behind the caches is a depot that all threads share: objects
// that are made on one thread and deleted on another (a call whose answer the event loop delivers)
// take their memory there and back in batches.

#include <array>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "base/fork_guard.h"
#include "base/mutex.h"

namespace mi7 {

// Thread-safe: an object may be deleted on another thread than the one that made it. At most
// kCachedMax blocks stay with a thread and kDepotMax in the depot, the rest goes back to the heap.
// A thread that ends leaves its blocks to the depot.
template <typename T>
class ObjectPool {
 public:
  static constexpr size_t kCachedMax = 128;
  static constexpr size_t kDepotMax = 4096;

  template <typename... Args>
  static T* New(Args&&... args) {
    Cache& cache = ThreadCache();
    if (cache.count == 0 && !cache.closed) cache.Fetch();
    void* block = cache.count != 0 ? cache.blocks[--cache.count] : ::operator new(kBlockBytes);
    return new (block) T(std::forward<Args>(args)...);
  }

  static void Delete(T* object) {
    object->~T();
    Cache& cache = ThreadCache();
    if (cache.closed) {
      ::operator delete(object);
      return;
    }
    if (cache.count == kCachedMax) cache.Store(kBatch);
    cache.blocks[cache.count++] = object;
  }

 private:
  static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  // A free block in the depot.
  struct Free {
    Free* next;
  };
  static constexpr size_t kBlockBytes = sizeof(T) < sizeof(Free) ? sizeof(Free) : sizeof(T);
  static constexpr size_t kBatch = kCachedMax / 2;

  struct Depot {
    Depot() { ForkGuard::HoldAcrossFork(&mutex); }
    Mutex mutex;
    Free* first ABSL_GUARDED_BY(mutex) = nullptr;
    size_t count ABSL_GUARDED_BY(mutex) = 0;
  };
  // Never destroyed: threads may end after static objects are gone.
  static Depot& TheDepot() {
    static Depot* const depot = new Depot;
    return *depot;
  }

  struct Cache {
    ~Cache() {
      // Objects may still be deleted by destructors of other thread-local objects that run later.
      closed = true;
      Store(count);
    }
    // Takes up to kBatch blocks from the depot.
    void Fetch() {
      Depot& depot = TheDepot();
      MutexLock lock(&depot.mutex);
      while (count < kBatch && depot.first != nullptr) {
        Free* const block = depot.first;
        depot.first = block->next;
        --depot.count;
        blocks[count++] = block;
      }
    }
    // Gives `number` blocks to the depot, or to the heap when the depot is full.
    void Store(size_t number) {
      Depot& depot = TheDepot();
      MutexLock lock(&depot.mutex);
      for (; number != 0; --number) {
        void* const block = blocks[--count];
        if (depot.count < kDepotMax) {
          depot.first = new (block) Free{depot.first};
          ++depot.count;
        } else {
          ::operator delete(block);
        }
      }
    }
    std::array<void*, kCachedMax> blocks;
    size_t count = 0;
    bool closed = false;
  };
  static Cache& ThreadCache() {
    static thread_local Cache cache;
    return cache;
  }
};

// Owns an object of an ObjectPool.
template <typename T>
struct PoolDeleter {
  void operator()(T* object) const { ObjectPool<T>::Delete(object); }
};
template <typename T>
using PooledPtr = std::unique_ptr<T, PoolDeleter<T>>;
template <typename T, typename... Args>
PooledPtr<T> MakePooled(Args&&... args) {
  return PooledPtr<T>(ObjectPool<T>::New(std::forward<Args>(args)...));
}

}  // namespace mi7
