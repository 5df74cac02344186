#!/bin/sh
# The code that docs/TESTING.md shows is that of testing_guide_test.cc, and what README.md shows of
# streams is in store.capnp and readme_streams_test.cc, but for spaces.
set -eu
python3 - <<'PY'
import re, sys

def plain(text):
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))

def missing(where, guide, language, tests, least):
    """How many pieces of code of a guide are in none of its tests."""
    texts = [plain(open("tests/guide/" + test).read()) for test in tests]
    blocks = re.findall(r"```%s\n(.*?)```" % language, guide, re.DOTALL)
    if len(blocks) < least:
        sys.exit("%s has only %d pieces of %s" % (where, len(blocks), language))
    strangers = [block for block in blocks if not any(plain(block) in text for text in texts)]
    for block in strangers:
        print("%s shows what is not in %s:\n%s" % (where, " or ".join(tests), block))
    return len(strangers)

testing = open("docs/TESTING.md").read()
streams = re.search(r"\n## Streams\n(.*?)\n## ", open("README.md").read(), re.DOTALL).group(1)
sys.exit(
    missing("docs/TESTING.md", testing, "cpp", ["testing_guide_test.cc"], 5)
    + missing("README.md", streams, "capnp", ["store.capnp"], 1)
    + missing("README.md", streams, "cpp", ["readme_streams_test.cc"], 2)
)
PY
