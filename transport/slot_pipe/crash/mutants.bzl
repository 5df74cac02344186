"""Mutants: the protocol with one fault each, which the test of every instruction must find."""

def mutant(name, src, old, new):
    """The program every_instruction with `old` in `src` replaced by `new`.

    Args:
      name: of the program; also of its fault.
      src: "protocol.cc" or "participants.cc".
      old: text that the source contains exactly once.
      new: text instead of it.
    """
    native.genrule(
        name = name + "_source",
        testonly = True,
        srcs = ["//transport/slot_pipe:" + src],
        outs = [name + ".cc"],
        cmd = "python3 $(location :replace.py) %s %s <$< >$@" % (_quote(old), _quote(new)),
        tools = [":replace.py"],
    )
    intact = {"protocol.cc": "participants", "participants.cc": "protocol"}[src]
    native.cc_binary(
        name = name,
        testonly = True,
        srcs = [name + ".cc"],
        # Faults are put in where they fit, however they look.
        copts = ["-Wno-misleading-indentation"],
        deps = [
            ":every_instruction_main",
            "//transport/slot_pipe:" + intact,
            "//transport/slot_pipe:protocol_headers",
        ],
    )

def _quote(text):
    return "'" + text.replace("'", "'\\''").replace("$", "$$") + "'"
