#pragma once

// The two halves of a shared-memory connection (layout.h): ours, which we write, and the peer's,
// which we only read. This is where memory is made, sealed, passed and verified.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fork_guard.h"
#include "transport/shm/layout.h"
#include "transport/shm/shm_options.h"
#include "transport/unique_fd.h"

namespace mi7::transport::shm {

// A piece of mapped memory; unmaps it when destroyed. Move-only. In a forked child it is not mapped
// (MADV_DONTFORK), its addresses may be another's, and the destructor does nothing.
class Mapping {
 public:
  Mapping() = default;
  Mapping(void* data, size_t bytes) : data_(static_cast<std::byte*>(data)), bytes_(bytes) {}
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        made_in_(other.made_in_) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(made_in_, other.made_in_);
    return *this;
  }
  ~Mapping();
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  uint32_t made_in_ = ForkGuard::generation();
};

// Memory of `bytes` (a multiple of the page size) that we can write, and its descriptor for the
// peer, sealed against shrinking and growing. `for_good`: also against being written through any
// other mapping than this one, ever, and so against giving pages back. RESOURCE_EXHAUSTED, naming
// what is short, when the system refuses or would kill the process for it (RLIMIT_FSIZE);
// `reserve_bytes` from the start are committed before this
// returns, so touching them cannot fail.
struct SharedMemory {
  UniqueFd descriptor;
  Mapping mapping;
};
absl::StatusOr<SharedMemory> CreateSharedMemory(const char* name, size_t bytes,
                                                size_t reserve_bytes, bool for_good);

// Commits `bytes` from `offset` on, so that touching them cannot fail. RESOURCE_EXHAUSTED.
absl::Status ReserveMemory(const UniqueFd& descriptor, size_t offset, size_t bytes);

// The peer's memory, mapped for reading. `descriptor` may be anything: it is checked to be memory
// of exactly `bytes` that is sealed against shrinking and growing, and `for_good` when that is
// asked. INVALID_ARGUMENT: it is not.
absl::StatusOr<Mapping> MapPeerMemory(const UniqueFd& descriptor, size_t bytes, bool for_good);

// Our half, made before anything is known of the peer.
class LocalHalf {
 public:
  // RESOURCE_EXHAUSTED, naming what the system has no more of, or RLIMIT_FSIZE if that forbids the
  // memory of any of the size classes. `options` must be checked.
  static absl::StatusOr<LocalHalf> Create(std::shared_ptr<const ShmOptions> options);

  // The control page, to be passed to the peer with our Hello.
  int descriptor() const { return memory_.descriptor.get(); }
  // The peer has it. An open connection keeps the descriptor of its socket, and one for the memory
  // of each size class that it has used for what it sends (1 to 5 with the default classes).
  void CloseDescriptor() { memory_.descriptor.reset(); }

  Control& control() const { return *reinterpret_cast<Control*>(memory_.mapping.data()); }
  const ShmOptions& options() const { return *options_; }

 private:
  SharedMemory memory_;
  std::shared_ptr<const ShmOptions> options_;
};

// The peer's half, verified: everything that is constant in it is copied into private memory.
class PeerHalf {
 public:
  // Takes over the descriptor that came with the peer's Hello. INVALID_ARGUMENT: what it is instead
  // of a control page. FAILED_PRECONDITION, naming both: another version of the layout.
  // RESOURCE_EXHAUSTED: its slots exceed what `options` allow, or the system refuses the mapping.
  static absl::StatusOr<PeerHalf> Verify(UniqueFd descriptor, const ShmOptions& options);

  const Control& control() const { return *reinterpret_cast<const Control*>(mapping_.data()); }
  std::span<const SizeClass> classes() const { return {classes_.data(), class_count_}; }

 private:
  Mapping mapping_;
  uint32_t class_count_ = 0;
  std::array<SizeClass, kClassesMax> classes_{};
};

}  // namespace mi7::transport::shm
