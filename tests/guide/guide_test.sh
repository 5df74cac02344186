#!/bin/sh
# The code that docs/TESTING.md shows is that of testing_guide_test.cc.
set -eu
python3 - docs/TESTING.md tests/guide/testing_guide_test.cc <<'PY'
import re, sys
guide, test = (open(name).read() for name in sys.argv[1:])
blocks = re.findall(r"```cpp\n(.*?)```", guide, re.DOTALL)
if len(blocks) < 5:
    sys.exit("the guide has only %d pieces of code" % len(blocks))
missing = [block for block in blocks if block not in test]
for block in missing:
    print("not in " + sys.argv[2] + ":\n" + block)
sys.exit(1 if missing else 0)
PY
