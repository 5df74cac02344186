#!/bin/sh
# The program says hello, and the README shows the very program.
set -eu
# Not in the runtime directory of whoever runs the test.
export MI7_RUNTIME_DIR="$TEST_TMPDIR/run"
[ "$(examples/hello/hello)" = "Hello, world!" ] || { echo "hello prints something else"; exit 1; }
for file in examples/hello/hello.capnp examples/hello/hello.cc; do
  # Every line of the file, as one block, stands in the README.
  python3 - "$file" README.md <<'PY' || exit 1
import sys
file, readme = (open(name).read() for name in sys.argv[1:])
if file.strip() not in readme:
    sys.exit(sys.argv[1] + " differs from what README.md shows; copy it there")
PY
done
