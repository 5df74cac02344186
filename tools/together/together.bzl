"""Sources of tests that are compiled as one, where .bazelrc asks for it.

Half of the time that a small source takes is for its headers and what it instantiates of them. Ten
sources as one take as long as three. Who changes one of them wants it to be compiled alone, though, and
so it is in all builds but that of tools/test.
"""

_WANTED = "//tools/together:wanted"

def sources_together(name, srcs, units):
    """The srcs of a cc_library whose sources are compiled alone, or as `units` sources.

    Args:
      name: of the units, before their numbers.
      srcs: sources that end in _test.cc or _conformance.cc.
      units: how many.

    Returns:
      What to write as `srcs`.
    """
    names = ["%s_%d_test" % (name, unit) for unit in range(units)]
    for unit in range(units):
        native.genrule(
            name = names[unit] + "_source",
            testonly = True,
            srcs = srcs[unit::units],
            outs = [names[unit] + ".cc"],
            cmd = "python3 $(location //tools/together:together.py) $(SRCS) >$@",
            tools = ["//tools/together:together.py"],
        )
    return select({
        _WANTED: [unit + ".cc" for unit in names],
        "//conditions:default": srcs,
    })

def tests_together(name, tests, units = 1):
    """The program that tests of a package are where they are compiled together.

    Args:
      name: of the program.
      tests: names of the tests, each of which is a test_together() with this name as `together`.
      units: how many sources are made of theirs.
    """
    native.cc_library(
        name = name + "_program",
        testonly = True,
        srcs = sources_together(
            name = name,
            srcs = [test + ".cc" for test in tests],
            units = units,
        ),
        tags = ["manual"],  # In other builds its sources are compiled for the tests.
        deps = [":%s_needs" % test for test in tests] + ["//tools/together:main"],
        alwayslink = True,
    )
    native.cc_binary(
        name = name,
        testonly = True,
        tags = ["manual"],
        deps = [":%s_program" % name],
    )

def test_together(name, together, srcs, deps, **kwargs):
    """A test that is compiled with others. Mutants can be made of it, as of a mutable_test().

    Args:
      name: of the test.
      together: label of the tests_together() that names it.
      srcs: its one source, named as it is. Has no main() and replaces no function.
      deps: what the source needs, with a main().
      **kwargs: attributes that every test has.
    """
    native.cc_library(
        name = name + "_needs",
        testonly = True,
        deps = deps,
    )
    native.cc_library(
        name = name + "_program",
        testonly = True,
        srcs = select({
            _WANTED: [],
            "//conditions:default": srcs,
        }),
        visibility = ["//tests/mutants:__pkg__"],
        deps = select({
            _WANTED: [together + "_program"],
            "//conditions:default": deps,
        }),
        alwayslink = True,
    )
    native.cc_binary(
        name = name + "_alone",
        testonly = True,
        tags = ["manual"],
        deps = [":%s_program" % name],
    )
    _program_test(
        name = name,
        program = select({
            _WANTED: together,
            "//conditions:default": ":%s_alone" % name,
        }),
        args = select({
            _WANTED: ["--source=%s/%s" % (native.package_name(), srcs[0])],
            "//conditions:default": [],
        }),
        visibility = ["//tests/mutants:__pkg__"],
        **kwargs
    )

def _program_test_impl(ctx):
    program = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(
        output = program,
        target_file = ctx.executable.program,
        is_executable = True,
    )
    return [DefaultInfo(
        executable = program,
        runfiles = ctx.attr.program[DefaultInfo].default_runfiles,
    )]

_program_test = rule(
    implementation = _program_test_impl,
    doc = "A test that is a program which others are, too.",
    attrs = {
        "program": attr.label(executable = True, cfg = "target", mandatory = True),
    },
    test = True,
)
