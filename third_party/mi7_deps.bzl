"""The external repositories of mi7, all of them Debian 12 packages. Nothing is downloaded.

A workspace that uses mi7 does

    local_repository(name = "mi7", path = "...")
    load("@mi7//third_party:mi7_deps.bzl", "mi7_dependencies")
    mi7_dependencies()

and gets the same repositories. One that is already defined under the same name is left alone.
"""

load("//third_party:bench_peers.bzl", "bench_peers_repository")
load(
    "//third_party:system_packages.bzl",
    "abseil_repository",
    "capnp_repository",
    "directory_repository",
    "pkg_config_repository",
    "shim_repository",
)

def _maybe(rule, name, **kwargs):
    if not native.existing_rule(name):
        rule(name = name, **kwargs)

def mi7_dependencies():
    """Defines every external repository that mi7's packages and Bazel itself refer to."""

    # What Bazel's embedded packages load. Left undefined, Bazel would try to download them.
    _maybe(
        directory_repository,
        name = "platforms",
        directory = "/usr/share/bazel/tools/platforms",
        package = "bazel-platforms",
    )
    _maybe(
        directory_repository,
        name = "bazel_skylib",
        directory = "/usr/share/bazel/tools/skylib",
        package = "bazel-skylib",
    )
    _maybe(
        directory_repository,
        name = "rules_java",
        directory = "/usr/share/bazel/rules/java",
        package = "bazel-rules-java",
    )
    _maybe(
        directory_repository,
        name = "rules_proto",
        directory = "/usr/share/bazel/rules/proto",
        package = "bazel-rules-proto",
    )
    _maybe(
        shim_repository,
        name = "rules_cc",
        files = {Label("//third_party:shims/rules_cc_defs.bzl"): "cc/defs.bzl"},
        packages = {
            "": "",
            "cc": "exports_files([\"defs.bzl\"], visibility = [\"//visibility:public\"])\n",
        },
    )
    _maybe(
        shim_repository,
        name = "remote_coverage_tools",
        packages = {
            "": "".join([
                "filegroup(name = \"%s\", visibility = [\"//visibility:public\"])\n" % target
                for target in ["coverage_report_generator", "lcov_merger"]
            ]),
        },
    )

    # The libraries that mi7 is made of.
    _maybe(capnp_repository, name = "capnp")
    _maybe(abseil_repository, name = "abseil")
    _maybe(
        pkg_config_repository,
        name = "libuv",
        modules = {"libuv": "libuv"},
        package = "libuv1-dev",
    )
    _maybe(
        pkg_config_repository,
        name = "openssl",
        modules = {"crypto": "libcrypto"},
        package = "libssl-dev",
    )

    # What examples/kv keeps its keys in.
    _maybe(
        pkg_config_repository,
        name = "sqlite",
        modules = {"sqlite3": "sqlite3"},
        package = "libsqlite3-dev",
    )

    # The command line of tools/mi7.
    _maybe(
        pkg_config_repository,
        name = "cli11",
        modules = {"cli11": "CLI11"},
        package = "libcli11-dev",
    )

    # What tests and benchmarks use.
    _maybe(
        pkg_config_repository,
        name = "googletest",
        modules = {
            "gtest": "gtest",
            "gtest_main": "gtest_main",
            "gmock": "gmock",
            "gmock_main": "gmock_main",
        },
        package = "libgtest-dev libgmock-dev",
        precompiled = "testing",
    )
    _maybe(
        pkg_config_repository,
        name = "benchmark",
        modules = {"benchmark": "benchmark"},
        archives = {"benchmark_main": "benchmark"},
        package = "libbenchmark-dev",
    )

    # What benchmarks compare mi7 with, where it is installed.
    _maybe(bench_peers_repository, name = "bench_peers")
