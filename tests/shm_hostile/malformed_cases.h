#pragma once

// What a peer can get wrong, one thing at a time, and what is to become of it.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/shm_hostile/hostile_peer.h"

namespace mi7::shm_hostile {

struct MalformedCase {
  std::string name;
  std::function<void(HostilePeer&)> act;
  Witness::Event::Kind kind;
  absl::StatusCode code;
  std::string why;
};

// Of records in the ring, of what is passed over the socket, and of scribbles that concern nobody
// but the peer: the connection goes on.
std::vector<MalformedCase> RecordCases();
std::vector<MalformedCase> SocketCases();
std::vector<MalformedCase> HarmlessCases();

// A call with a body of two words, in the ring.
RawRecord Sound();

// Passes all memory, then puts a record.
std::function<void(HostilePeer&)> Pieces(transport::shm::Form form, uint32_t size,
                                         std::vector<uint64_t> words, uint32_t extra_size = 0);

// A sealed memfd, or -1.
int Memory(uint64_t bytes, int seals, unsigned flags = 0);

}  // namespace mi7::shm_hostile
