"""Programs of peers that may not be installed."""

load("@bench_peers//:peers.bzl", "PEERS")

_COMMON = [
    "//bench/harness:subject",
    "@abseil//:status",
    "@abseil//:statusor",
    "@abseil//:strings",
    "@abseil//:synchronization",
]

def missing_subject(name, packages = ""):
    """A program that says which packages its peer needs; without any, that there are none."""
    native.cc_binary(
        name = name,
        srcs = ["not_installed.cc"],
        local_defines = ["MI7_BENCH_PACKAGES=\\\"%s\\\"" % packages.replace(" ", "\\ ")],
        deps = _COMMON,
    )

def peer_subject(name, peer, srcs, deps = []):
    """A subject that needs a peer. Where that is not installed, a program that says so.

    Args:
      name: of the program.
      peer: a key of PEERS.
      srcs: of the program.
      deps: besides the peer itself and what every subject needs.
    """
    if PEERS[peer].installed:
        native.cc_binary(
            name = name,
            srcs = srcs,
            deps = _COMMON + deps + [":echo_bytes", ":socket_path", ":stream_tally", "@bench_peers//:" + peer],
        )
    else:
        missing_subject(name, PEERS[peer].packages)

def grpc_code(name, src):
    """Messages and stubs of a .proto file, in a library `name`; empty without gRPC."""
    if not PEERS["grpc"].installed:
        native.cc_library(name = name)
        return
    stem = src[:-len(".proto")]
    outs = [stem + extension for extension in [".pb.h", ".pb.cc", ".grpc.pb.h", ".grpc.pb.cc"]]
    native.genrule(
        name = name + "_code",
        srcs = [src],
        outs = outs,
        cmd = "$(location @bench_peers//:bin/protoc) -I. --cpp_out=$(GENDIR) --grpc_out=$(GENDIR) " +
              "--plugin=protoc-gen-grpc=$(location @bench_peers//:bin/grpc_cpp_plugin) $<",
        tools = ["@bench_peers//:bin/protoc", "@bench_peers//:bin/grpc_cpp_plugin"],
    )
    native.cc_library(
        name = name,
        srcs = outs[1::2],
        hdrs = outs[0::2],
        copts = ["-w"],
        deps = ["@bench_peers//:grpc"],
    )

def thrift_code(name, src, service):
    """Types and the service of a .thrift file, in a library `name`; empty without Thrift."""
    if not PEERS["thrift"].installed:
        native.cc_library(name = name)
        return
    stem = src[:-len(".thrift")]
    hdrs = [stem + "_types.h", service + ".h", service + ".tcc", stem + "_types.tcc"]
    srcs = [service + ".cpp", stem + "_types.cpp"]
    native.genrule(
        name = name + "_code",
        srcs = [src],
        outs = hdrs + srcs,
        cmd = "$(location @bench_peers//:bin/thrift) --gen cpp:templates,no_skeleton -out $(@D) $<",
        tools = ["@bench_peers//:bin/thrift"],
    )
    native.cc_library(
        name = name,
        srcs = srcs,
        hdrs = hdrs[:2],
        copts = ["-w"],
        textual_hdrs = hdrs[2:],
        deps = ["@bench_peers//:thrift"],
    )
