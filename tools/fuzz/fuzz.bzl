"""cc_fuzz_test: a libFuzzer target that is an ordinary test as well."""

def cc_fuzz_test(name, srcs, corpus, deps = [], executions = 0, size = "medium", tags = [], **kwargs):
    """Defines a test around `extern "C" int LLVMFuzzerTestOneInput(const uint8_t*, size_t)`.

    In a normal build, with any compiler, the test runs that function once for every file of the
    corpus, for prefixes and changed bytes of each, and for random changes: what fuzzing once found
    stays found. With --config=fuzz libFuzzer drives it from the corpus for MI7_FUZZ_SECONDS (10),
    with AddressSanitizer and UndefinedBehaviorSanitizer; an input that fails is kept in the test's
    outputs. `tools/test` does both, `tools/test --fuzz` the second for longer.

    Args:
      name: name of the test.
      srcs: sources, one of which defines LLVMFuzzerTestOneInput.
      corpus: folder of this package with at least one input in it, one per file.
      deps: libraries.
      executions: how often a normal build runs it at least, if that is more than what the corpus gives.
      size: as of every test.
      tags: as of every test; "fuzz" is added, by which tools/test finds the target.
      **kwargs: as of cc_library and cc_test.
    """
    inputs = native.glob([corpus + "/**"])
    if not inputs:
        fail("cc_fuzz_test %s: the corpus folder %s has no file" % (name, corpus))
    # A library of its own, of which mutants can be made (tools/mutants).
    native.cc_library(
        name = name + "_program",
        testonly = True,
        srcs = srcs,
        visibility = [str(Label("//tests/mutants:__pkg__"))],
        deps = deps + [str(Label("//tools/fuzz:driver"))],
        alwayslink = True,
        **kwargs
    )
    native.cc_test(
        name = name,
        size = size,
        args = ["/".join([part for part in [native.package_name(), corpus] if part])],
        data = inputs,
        env = {"MI7_REPLAY_EXECUTIONS": str(executions)},
        linkopts = select({
            str(Label("//tools/fuzz:libfuzzer")): ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        linkstatic = True,
        tags = tags + ["fuzz"],
        visibility = [str(Label("//tests/mutants:__pkg__"))],
        deps = [":" + name + "_program"],
        **kwargs
    )
