#pragma once

// A per-thread cache of freed memory blocks for objects of one type, so that objects made once a
// call cost no heap allocation once warm.

#include <array>
#include <cstddef>
#include <new>
#include <utility>

namespace mi7 {

// Thread-safe: an object may be deleted on another thread than the one that made it; its memory
// then joins that thread's cache. At most kCachedMax blocks stay with a thread, the rest goes back
// to the heap, and all of it when the thread ends.
template <typename T>
class ObjectPool {
 public:
  static constexpr size_t kCachedMax = 128;

  template <typename... Args>
  static T* New(Args&&... args) {
    Cache& cache = ThreadCache();
    void* block = cache.count != 0 ? cache.blocks[--cache.count] : ::operator new(sizeof(T));
    return new (block) T(std::forward<Args>(args)...);
  }

  static void Delete(T* object) {
    object->~T();
    Cache& cache = ThreadCache();
    if (cache.count < kCachedMax && !cache.closed) {
      cache.blocks[cache.count++] = object;
    } else {
      ::operator delete(object);
    }
  }

 private:
  static_assert(alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  struct Cache {
    ~Cache() {
      // Objects may still be deleted by destructors of other thread-local objects that run later.
      closed = true;
      while (count != 0) ::operator delete(blocks[--count]);
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

}  // namespace mi7
