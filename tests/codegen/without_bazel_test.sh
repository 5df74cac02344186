#!/bin/bash
# What codegen/README.md says to do without Bazel can be done: its own commands, in a folder of a
# user's. Building the plugin is left out, which Bazel has done.
set -eu
plugin=$PWD/$1
# The sources, which the commands name, are more than this test declares: mi7's own tree.
MI7=$(dirname "$(dirname "$(realpath codegen/README.md)")")
export MI7

fail() {
  echo "FAILED: $*"
  exit 1
}

# Leaves the section's pieces of code in 1.sh, 2.sh, 3.sh.
work=$TEST_TMPDIR/work
mkdir -p "$work"
python3 - codegen/README.md "$work" "$plugin" <<'PY'
import re, sys
readme, work, plugin = sys.argv[1:]
section = re.search(r"\n## Without Bazel\n(.*?)\n## ", open(readme).read(), re.DOTALL).group(1)
blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
if len(blocks) != 3 or "/path/to/capnpc-mi7" not in blocks[2]:
    sys.exit("the section has changed, and this test has to know how")
for number, block in enumerate(blocks, 1):
    with open("%s/%d.sh" % (work, number), "w") as script:
        script.write("set -eu\n" + block.replace("/path/to/capnpc-mi7", plugin))
PY

# The program is made of one main(), and of no test.
sources=$(cd "$MI7" && eval "$(sed -n 's/.*\$(\(ls codegen[^)]*\)).*/\1/p' "$work/1.sh")")
mains=$(cd "$MI7" && for source in $sources; do grep -l '^int main(' "$source" || :; done)
[[ $mains == codegen/main.cc ]] || fail "the plugin's sources have main() in: $mains"
[[ $sources != *_test.cc* ]] || fail "the plugin's sources have tests among them"

cd "$work"
mkdir -p bin calc schemas/calc
ln -s "$plugin" bin/capnpc-mi7
cat >calc/calculator.capnp <<'CAPNP'
@0xa1d5c3b7e9f20468;
using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("calc");
interface Calculator {
  add @0 (a :Int64, b :Int64) -> (sum :Int64);
}
CAPNP
PATH=$work/bin:$PATH bash 2.sh || fail "the commands to generate and compile"
for file in calculator.capnp.o calculator.mi7.o; do
  [[ -s $file ]] || fail "no $file was made"
done

sed -e 's/^interface/using Mi7 = import "\/mi7\/annotations.capnp";\n&/' \
  -e 's/sum :Int64)/& $Mi7.idempotent/' calc/calculator.capnp >schemas/calc/calculator.capnp
bash 3.sh || fail "the commands to generate into another folder"
for file in gen/calc/calculator.capnp.h gen/calc/calculator.mi7.h gen/calc/calculator.mi7.cc; do
  [[ -s $file ]] || fail "no $file was made"
done
echo "codegen/README.md can be followed"
