#include "transport/shm/half.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <new>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/fork_guard.h"

namespace mi7::transport {

absl::Status CheckShmOptions(const ShmOptions& options) {
  const auto& classes = options.slot_classes;
  if (classes.empty() || classes.size() > shm::kClassesMax) {
    return absl::InvalidArgumentError(absl::StrCat("shm.slot_classes has ", classes.size(),
                                                   " entries, must have 1 to ", shm::kClassesMax));
  }
  uint64_t slots = 0;
  uint64_t slot_bytes = 0;
  for (const ShmOptions::SlotClass& slot_class : classes) {
    if (slot_class.slot_bytes % shm::kPageBytes != 0 || slot_class.slot_bytes <= slot_bytes ||
        slot_class.slot_bytes > shm::kSlotBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat(
          "shm.slot_classes has slot_bytes ", slot_class.slot_bytes,
          ", must be ascending multiples of ", shm::kPageBytes, " up to ", shm::kSlotBytesMax));
    }
    if (slot_class.count == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shm.slot_classes has no slots of ", slot_class.slot_bytes, " bytes"));
    }
    slot_bytes = slot_class.slot_bytes;
    slots += slot_class.count;
  }
  if (slots > shm::kSlotsMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "shm.slot_classes has ", slots, " slots together, must be at most ", shm::kSlotsMax));
  }
  return absl::OkStatus();
}

namespace shm {
namespace {

absl::Status Refused(absl::string_view what, uint64_t bytes, int error) {
  return absl::ResourceExhaustedError(
      absl::StrCat("shared memory of ", bytes, " bytes: ", what, ": ", ::strerror(error)));
}

// Whether memory may be so large. The system would not refuse what exceeds the limit: it kills the
// process that asks (SIGXFSZ). Of memory that has its size nothing is asked any more.
absl::Status CheckFileSize(uint64_t bytes) {
  rlimit limit;
  if (::getrlimit(RLIMIT_FSIZE, &limit) != 0) return Refused("getrlimit", bytes, errno);
  if (limit.rlim_cur == RLIM_INFINITY || bytes <= limit.rlim_cur) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("shared memory of ", bytes,
                                                   " bytes exceeds this process's RLIMIT_FSIZE, ",
                                                   limit.rlim_cur, " bytes (ulimit -f)"));
}

}  // namespace

Mapping::~Mapping() {
  if (data_ != nullptr && ForkGuard::generation() == made_in_) ::munmap(data_, bytes_);
}

absl::StatusOr<SharedMemory> CreateSharedMemory(const char* name, size_t bytes,
                                                size_t reserve_bytes, bool for_good) {
  if (absl::Status allowed = CheckFileSize(bytes); !allowed.ok()) return allowed;
  SharedMemory memory;
  memory.descriptor = UniqueFd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const int fd = memory.descriptor.get();
  if (fd < 0) return Refused("memfd_create", bytes, errno);
  if (::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return Refused("ftruncate", bytes, errno);
  if (reserve_bytes != 0) {
    if (absl::Status reserved = ReserveMemory(memory.descriptor, 0, reserve_bytes); !reserved.ok())
      return reserved;
  }
  // No MAP_POPULATE: memory is committed as it is used.
  void* const data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return Refused("mmap", bytes, errno);
  memory.mapping = Mapping(data, bytes);
  // A child would share what only this process may write, and keep it alive.
  if (::madvise(data, bytes, MADV_DONTFORK) != 0) return Refused("madvise", bytes, errno);
  const int seals =
      F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (for_good ? F_SEAL_FUTURE_WRITE : 0);
  if (::fcntl(fd, F_ADD_SEALS, seals) != 0) return Refused("F_ADD_SEALS", bytes, errno);
  return memory;
}

absl::Status ReserveMemory(const UniqueFd& descriptor, size_t offset, size_t bytes) {
  const auto allocate = [&](int mode, size_t from, size_t size) {
    return ::fallocate(descriptor.get(), mode, static_cast<off_t>(from), static_cast<off_t>(size));
  };
  // Kernels before 6.9 reserve nothing where a signal comes meanwhile, so that a timer with a
  // period shorter than it takes would keep us here for ever: pieces take less.
  size_t piece = bytes;
  for (size_t done = 0; done < bytes;) {
    const size_t now = std::min(piece, bytes - done);
    if (allocate(0, offset + done, now) == 0) {
      done += now;
    } else if (errno == EINTR) {
      piece = std::max<size_t>(piece / 2 / kPageBytes, 1) * kPageBytes;
    } else {
      const int error = errno;
      // As in one piece: nothing stays, unless the seals forbid to give anything back.
      if (done != 0) allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, done);
      return Refused("fallocate", bytes, error);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Mapping> MapPeerMemory(const UniqueFd& descriptor, size_t bytes, bool for_good) {
  const int fd = descriptor.get();
  // Only memfds have seals: this is also the proof that it is one, and no file or device that could
  // shrink, block or disappear.
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the peer passed a descriptor that is no memfd (F_GET_SEALS: ", ::strerror(errno), ")"));
  }
  const int wanted = F_SEAL_SHRINK | F_SEAL_GROW | (for_good ? F_SEAL_FUTURE_WRITE : 0);
  if ((seals & wanted) != wanted) {
    return absl::InvalidArgumentError(absl::StrCat("the peer's memory has seals ", absl::Hex(seals),
                                                   ", needs ", absl::Hex(wanted), " (shrink, grow",
                                                   for_good ? ", future write)" : ")"));
  }
  // Reserved huge pages that the peer gives back are missing when they are touched, which is fatal.
  struct statfs system;
  if (::fstatfs(fd, &system) != 0) return Refused("fstatfs", bytes, errno);
  if (system.f_type == HUGETLBFS_MAGIC) {
    return absl::InvalidArgumentError("the peer's memory has huge pages, must have ordinary pages");
  }
  // After the seals: from here on the size cannot change.
  struct stat info;
  if (::fstat(fd, &info) != 0) return Refused("fstat", bytes, errno);
  if (!S_ISREG(info.st_mode) || info.st_size != static_cast<off_t>(bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the peer's memory is ", info.st_size, " bytes large, must be ", bytes));
  }
  void* const data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return Refused("mmap", bytes, errno);
  Mapping mapping(data, bytes);
  if (::madvise(data, bytes, MADV_DONTFORK) != 0) return Refused("madvise", bytes, errno);
  return mapping;
}

absl::StatusOr<LocalHalf> LocalHalf::Create(std::shared_ptr<const ShmOptions> options) {
  MI7_CHECK(CheckShmOptions(*options).ok(),
            "shared-memory options are checked before they are used");
  // Of all that will be needed: rather no shared memory than one that refuses large messages.
  uint64_t bytes_max = kControlBytes;
  for (const ShmOptions::SlotClass& slot_class : options->slot_classes) {
    bytes_max = std::max(bytes_max, slot_class.slot_bytes * slot_class.count);
  }
  if (absl::Status allowed = CheckFileSize(bytes_max); !allowed.ok()) return allowed;
  auto memory = CreateSharedMemory("mi7-control", kControlBytes, kControlBytes, /*for_good=*/true);
  if (!memory.ok()) return memory.status();
  LocalHalf half;
  half.memory_ = *std::move(memory);
  // Fresh memory is zero, which is what everything but the geometry begins as.
  Geometry& geometry = half.control().geometry;
  geometry.magic = kMagic;
  geometry.version = kLayoutVersion;
  geometry.control_bytes = kControlBytes;
  geometry.ring_cells = kRingCells;
  geometry.class_count = static_cast<uint32_t>(options->slot_classes.size());
  for (size_t i = 0; i < options->slot_classes.size(); ++i) {
    geometry.classes[i].slot_bytes = options->slot_classes[i].slot_bytes;
    geometry.classes[i].count = options->slot_classes[i].count;
  }
  half.options_ = std::move(options);
  return half;
}

absl::StatusOr<PeerHalf> PeerHalf::Verify(UniqueFd descriptor, const ShmOptions& options) {
  auto mapping = MapPeerMemory(descriptor, kControlBytes, /*for_good=*/true);
  if (!mapping.ok()) return mapping.status();
  PeerHalf half;
  half.mapping_ = *std::move(mapping);
  Geometry geometry;
  // One read of what the peer can still change; only the copy is looked at.
  ReadShared(&geometry, &half.control().geometry, sizeof(geometry));
  if (geometry.magic != kMagic) {
    return absl::InvalidArgumentError(absl::StrCat("the peer's memory begins with ",
                                                   absl::Hex(geometry.magic, absl::kZeroPad16),
                                                   ", no control page of mi7"));
  }
  if (geometry.version != kLayoutVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the peer's shared memory has layout version ", geometry.version,
                     ", this side has ", kLayoutVersion));
  }
  if (geometry.control_bytes != kControlBytes || geometry.ring_cells != kRingCells ||
      geometry.reserved != 0 || geometry.class_count == 0 || geometry.class_count > kClassesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the peer's control page has ", geometry.control_bytes, " bytes, ", geometry.ring_cells,
        " cells, ", geometry.class_count, " size classes; must be ", kControlBytes, ", ",
        kRingCells, ", 1 to ", kClassesMax));
  }
  uint64_t slots = 0;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < geometry.class_count; ++i) {
    const SizeClass& size_class = geometry.classes[i];
    if (size_class.slot_bytes == 0 || size_class.slot_bytes % kPageBytes != 0 ||
        size_class.slot_bytes > kSlotBytesMax || size_class.count == 0 ||
        size_class.count > kSlotsMax || size_class.reserved != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the peer's size class ", i, " has ", size_class.count, " slots of ",
                       size_class.slot_bytes, " bytes, which cannot be"));
    }
    slots += size_class.count;
    bytes += size_class.slot_bytes * size_class.count;  // at most 6 * 1536 * 2^32
    half.classes_[i] = size_class;
  }
  if (slots > kSlotsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the peer has ", slots, " slots, must be at most ", kSlotsMax));
  }
  if (bytes > options.peer_bytes_max) {
    return absl::ResourceExhaustedError(absl::StrCat("the peer's slots of ", bytes,
                                                     " bytes in sum exceed shm.peer_bytes_max, ",
                                                     options.peer_bytes_max));
  }
  half.class_count_ = geometry.class_count;
  return half;
}

}  // namespace shm
}  // namespace mi7::transport
