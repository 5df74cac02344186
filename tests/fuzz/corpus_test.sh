#!/bin/sh
# The corpus in the tree has every input that make_corpus writes, as it writes it now.
set -eu
"$1" "$TEST_TMPDIR/corpus"
cd "$TEST_TMPDIR/corpus"
count=0
status=0
for input in */*; do
  count=$((count + 1))
  cmp "$input" "$TEST_SRCDIR/$TEST_WORKSPACE/tests/fuzz/corpus/$input" || status=1
done
[ "$count" -ge 20 ] || { echo "make_corpus writes $count inputs only" && exit 1; }
[ "$status" = 0 ] || {
  echo 'Run: bazel run //tests/fuzz:make_corpus -- "$PWD/tests/fuzz/corpus"'
  exit 1
}
