#pragma once

// What users would pick instead of mi7, as the plan knows it.

namespace mi7::bench {

struct Peer {
  const char* program;
  const char* suffix;  // of row ids; empty for the one that a target is mainly about
  const char* name;
  bool blocks = false;  // its API has one call outstanding a thread
};

inline constexpr Peer kGrpcSync = {"grpc_sync", ".grpc_sync", "gRPC sync", true};
inline constexpr Peer kGrpcCallback = {"grpc_callback", ".grpc_callback", "gRPC callback"};
inline constexpr Peer kCapnp = {"capnp_rpc", ".capnp", "Cap'n Proto"};
inline constexpr Peer kThrift = {"thrift", ".thrift", "Thrift"};
inline constexpr Peer kZeromq = {"zeromq", ".zeromq", "ZeroMQ"};
inline constexpr Peer kNng = {"nng", ".nng", "nng"};
inline constexpr Peer kBoost = {"boost_queue", ".boost", "Boost queue"};
inline constexpr Peer kIceoryx = {"iceoryx", ".iceoryx", "iceoryx"};

// Debian does not package it, so it is here by name only.
inline constexpr Peer kBrpc = {"brpc", ".brpc", "brpc"};

// The same peer, as the one whose rows carry the plain id of a target.
constexpr Peer Mainly(Peer peer) {
  peer.suffix = "";
  return peer;
}

}  // namespace mi7::bench
