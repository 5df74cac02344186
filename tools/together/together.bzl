"""Sources that are compiled as one, where .bazelrc asks for it: what they include is read once.

Half of the time that a small source takes is for its headers and what it instantiates of them. One of
ten sources takes as long as three. Who changes one of them wants it to be compiled alone, though, and
so it is in all builds but that of everything.
"""

_WANTED = "//tools/together:wanted"

def sources_together(name, srcs, units):
    """The srcs of a cc_library whose sources are compiled alone, or as `units` sources.

    Args:
      name: of the units, with their numbers.
      srcs: sources with tests in them, and nothing else.
      units: how many.

    Returns:
      What to write as `srcs`.
    """
    names = []
    for unit in range(units):
        names.append("%s_%d_test" % (name, unit))
        parts = srcs[unit::units]
        native.genrule(
            name = names[-1] + "_source",
            testonly = True,
            srcs = parts,
            outs = [names[-1] + ".cc"],
            cmd = "python3 $(location //tools/together:together.py) $(SRCS) >$@",
            tools = ["//tools/together:together.py"],
        )
    return select({
        _WANTED: [unit + ".cc" for unit in names],
        "//conditions:default": srcs,
    })
