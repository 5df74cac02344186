#!/usr/bin/python3
"""Prints sources as one, in which what each keeps to itself still is its own.

    together.py SOURCE...
"""

import os
import re
import sys

# As clang-format writes them.
_OPENS = "namespace {"
_CLOSES = "}  // namespace"


def together(sources):
    """The lines of one source from (path, text) of several."""
    for path, text in sources:
        lines = text.splitlines()
        if lines.count(_OPENS) != lines.count(_CLOSES):
            raise ValueError("%s: '%s' and '%s' have to be lines, in pairs" % (path, _OPENS, _CLOSES))
        own = re.sub(r"\W", "_", os.path.splitext(os.path.basename(path))[0])
        # What the compiler says, and __FILE__, are as if it stood alone.
        yield '#line 1 "%s"' % path
        for line in lines:
            if line == _OPENS:
                line = "namespace %s { namespace {" % own
            elif line == _CLOSES:
                line = "}}"
            yield line


def main():
    sources = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            sources.append((path, file.read()))
    print("\n".join(together(sources)))


if __name__ == "__main__":
    main()
