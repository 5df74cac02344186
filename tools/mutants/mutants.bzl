"""Mutants: the program of a test with one fault in it, which that test must find.

A test is worth what it would find. So each suite has seeded faults: a source is changed in one
place, its test is built with it, and has to fail.
"""

def mutant(name, src, old, new, deps, copts = [], tags = []):
    """A program in which `src` has `new` where it has `old`.

    Args:
      name: of the program; says what the fault is.
      src: label of a source of a library below `deps`. Linked before that library, which is then
        not asked for what the source defines.
      old: text that the source contains exactly once, however it is wrapped. The build fails when
        it does not: a fault has to be looked after as the source changes.
      new: text instead of it.
      deps: the rest of the program.
      copts: for that source.
      tags: of the program.
    """
    native.genrule(
        name = name + "_source",
        testonly = True,
        srcs = [src],
        outs = [name + ".cc"],
        cmd = "python3 $(location //tools/mutants:replace.py) %s %s <$< >$@" %
              (_quote(old), _quote(new)),
        tools = ["//tools/mutants:replace.py"],
    )
    native.cc_binary(
        name = name,
        testonly = True,
        srcs = [name + ".cc"],
        # tools/test builds and runs what has this tag with --mutants only. That each fault still
        # fits its source is seen by the genrule above, which is built with everything.
        tags = tags,
        # Faults are put in where they fit, however they look.
        copts = copts + ["-Wno-misleading-indentation", "-Wno-unused", "-Wno-unused-parameter"],
        linkstatic = True,
        deps = deps,
    )

def mutable_test(name, srcs, deps, size, copts = [], tags = [], **kwargs):
    """A cc_test that mutants can be made of: its program without the libraries is `name`_program."""
    native.cc_library(
        name = name + "_program",
        testonly = True,
        srcs = srcs,
        copts = copts,
        visibility = ["//tests/mutants:__pkg__"],
        deps = deps,
        alwayslink = True,
    )
    native.cc_test(
        name = name,
        size = size,
        tags = tags,
        visibility = ["//tests/mutants:__pkg__"],
        deps = [":" + name + "_program"],
        **kwargs
    )

def mutants_test(name, test, faults, settings = [], program_args = "", data = [], tags = []):
    """Builds mutants of a mutable_test and runs them: it must fail with each, and without any not.

    Args:
      name: of this test; also before the names of the mutants.
      test: label of the mutable_test.
      faults: by name: (src, old, new, filter), see mutant(). The filter is for the tests of
        GoogleTest that have to find it; "" for a program without GoogleTest.
      settings: NAME=VALUE for the environment of the mutants, such as the size of a run.
      program_args: arguments for all programs.
      data: files that they read.
      tags: those that the mutable_test needs to run.
    """
    mutants = {}
    for fault, (src, old, new, tests) in faults.items():
        mutant(
            name = name + "_" + fault,
            src = src,
            old = old,
            new = new,
            deps = [test + "_program"],
            tags = ["mutants"],
        )
        mutants[name + "_" + fault] = tests
    native.sh_test(
        name = name,
        size = "medium",
        srcs = ["//tools/mutants:mutants_test.sh"],
        args = settings +
               ["--args='%s'" % program_args, "$(rootpath %s)" % test] +
               ["'$(rootpath :%s)@%s'" % (mutant, tests) for mutant, tests in mutants.items()],
        data = [test] + [":" + mutant for mutant in mutants] + data,
        # One build is enough: a fault is a fault.
        tags = ["mutants", "no_sanitizer"] + tags,
    )

def _quote(text):
    return "'" + text.replace("'", "'\\''").replace("$", "$$") + "'"
