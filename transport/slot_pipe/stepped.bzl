"""Options for the sources that the tests in crash/ step through, instruction by instruction."""

# Unoptimized code takes four times as many instructions, and so do they; a debug build is left as
# it is for debuggers.
STEPPED_COPTS = select({
    "//transport/slot_pipe:fastbuild": ["-O1"],
    "//conditions:default": [],
})
