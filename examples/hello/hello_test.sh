#!/bin/sh
# The program says hello, and the README shows the very program and how it is built.
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
# The rules that the README shows are those of the BUILD file, seen from another workspace, and
# without what only mi7's own tests need.
python3 - examples/hello/BUILD README.md <<'PY'
import ast, re, sys

OWN = {"generate_mocks", "visibility"}

def rules(text):
    """{(function, name): its arguments}; of load(), {("load", file): its symbols}."""
    found = {}
    for statement in ast.parse(text.replace('"@mi7//', '"//')).body:
        call = statement.value
        if call.func.id == "load":
            found[("load", call.args[0].value)] = [symbol.value for symbol in call.args[1:]]
        elif call.func.id in ("cc_capnp_library", "cc_mi7_library", "cc_binary"):
            arguments = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
            name = arguments["name"]
            found[(call.func.id, name)] = {k: v for k, v in arguments.items() if k not in OWN}
    return found

build, readme = (open(name).read() for name in sys.argv[1:])
shown = rules(re.search(r"rules in `BUILD`:\n\n```python\n(.*?)```", readme, re.DOTALL).group(1))
if len(shown) < 4 or shown != rules(build):
    sys.exit("README.md shows %s,\nexamples/hello/BUILD has %s" % (shown, rules(build)))
PY
