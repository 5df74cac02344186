#pragma once

// Ring<T>: a queue in one block of memory, which grows by doubling. Once it is as large as it gets,
// values come and go without the heap.

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>

namespace mi7::channels_internal {

// Not thread-safe. A large block is freed when the ring gets empty, so that one burst does not keep
// its memory for ever; growing to it again takes as many values as it had.
template <typename T>
class Ring {
 public:
  static constexpr size_t kKeptBytes = 64 << 10;

  Ring() = default;
  Ring(Ring&& other) noexcept
      : block_(std::exchange(other.block_, nullptr)),
        room_(std::exchange(other.room_, 0)),
        first_(std::exchange(other.first_, 0)),
        size_(std::exchange(other.size_, 0)) {}
  Ring& operator=(Ring&&) = delete;
  ~Ring() {
    while (!empty()) static_cast<void>(PopFront());
    Free();
  }

  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }

  void PushBack(T&& value) {
    if (size_ == room_) Grow();
    std::construct_at(Place(size_), std::move(value));
    ++size_;
  }
  // So that `index` values are before it. Moves those.
  void Insert(size_t index, T&& value) {
    if (size_ == room_) Grow();
    first_ = (first_ + room_ - 1) & (room_ - 1);
    ++size_;
    for (size_t i = 0; i < index; ++i) {
      std::construct_at(Place(i), std::move(*Place(i + 1)));
      std::destroy_at(Place(i + 1));
    }
    std::construct_at(Place(index), std::move(value));
  }
  // Not of an empty one.
  T PopFront() {
    T* const front = Place(0);
    T value = std::move(*front);
    std::destroy_at(front);
    first_ = (first_ + 1) & (room_ - 1);
    if (--size_ == 0 && room_ * sizeof(T) > kKeptBytes) Free();
    return value;
  }

 private:
  static_assert(std::is_nothrow_move_constructible_v<T>,
                "a value on its way cannot be half moved: wrap it into a std::unique_ptr");

  T* Place(size_t index) const { return block_ + ((first_ + index) & (room_ - 1)); }

  void Grow() {
    const size_t room = room_ == 0 ? 8 : 2 * room_;
    T* const block = std::allocator<T>().allocate(room);
    for (size_t i = 0; i < size_; ++i) {
      T* const from = Place(i);
      std::construct_at(block + i, std::move(*from));
      std::destroy_at(from);
    }
    Free();
    block_ = block;
    room_ = room;
    first_ = 0;
  }
  void Free() {
    if (block_ != nullptr) std::allocator<T>().deallocate(block_, room_);
    block_ = nullptr;
    room_ = 0;
    first_ = 0;
  }

  T* block_ = nullptr;
  size_t room_ = 0;  // values that the block has room for: 0 or a power of two
  size_t first_ = 0;
  size_t size_ = 0;
};

}  // namespace mi7::channels_internal
