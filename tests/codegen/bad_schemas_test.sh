#!/bin/bash
# Each schema of bad/ that has a file x.expected is refused with exactly that text, and nothing is
# written. Those of good/ look like such, and are accepted.
source "$TEST_SRCDIR/$TEST_WORKSPACE/tests/codegen/test_lib.sh"
cd "$schemas/bad" || exit 1

count=0
for expected in *.expected; do
  name=${expected%.expected}
  out=$TEST_TMPDIR/$name
  for program in "$plugin" "$mock_plugin"; do
    mkdir -p "$out"
    run "$capnp" compile "${imports[@]}" "-o$program:$out" "$name.capnp"
    expect_status 1 "$name"
    # The last line is the compiler's own: that the plugin failed.
    diff -u "$expected" <(grep -v 'plugin failed: exit code 1$' "$TEST_TMPDIR/err") ||
      fail "$name: the message is not the expected one"
    expect_no_files "$out" "$name"
  done
  count=$((count + 1))
done
for schema in *.capnp; do
  [[ -f ${schema%.capnp}.expected || $schema == *_base.capnp ]] || fail "$schema has no .expected"
done
for schema in ../good/*.capnp; do
  out=$TEST_TMPDIR/$schema
  mkdir -p "$out"
  run "$capnp" compile "${imports[@]}" "-o$plugin:$out" "$schema"
  expect_status 0 "$schema"
done
((count > 10)) || fail "only $count bad schemas were found"
finish "$count bad schemas were refused as expected"
