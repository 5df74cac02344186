#pragma once

// What the raw shared-memory subjects stand on: one mapping that both processes have, and two
// eventfds, all handed over on a Unix socket without a name in the file system.

#include <cstddef>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mi7::bench {

// Both ends of a connection see the same bytes, zero at first. Move-only.
class SharedRegion {
 public:
  // Serves the first client that comes: calls `ready` with the address to connect to, then waits.
  static absl::StatusOr<SharedRegion> Serve(size_t bytes,
                                            const std::function<void(const std::string&)>& ready);
  static absl::StatusOr<SharedRegion> Connect(const std::string& address, size_t bytes);

  SharedRegion(SharedRegion&& other) noexcept;
  SharedRegion& operator=(SharedRegion&&) = delete;
  ~SharedRegion();

  void* data() const { return data_; }
  // Signal(0) ends or forestalls the server's Sleep(0); the client sleeps on 1.
  absl::Status Signal(int end) const;
  absl::Status Sleep(int end) const;

 private:
  SharedRegion() = default;
  absl::Status Map(int memory, size_t bytes);

  void* data_ = nullptr;
  size_t bytes_ = 0;
  int events_[2] = {-1, -1};
};

}  // namespace mi7::bench
