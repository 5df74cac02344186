#!/bin/bash
# The tests of survivors_test.cc that measure how long a recovery takes. They wait for nearly all of
# their time, or are busy on purpose, so they do so side by side.
set -u
program=$PWD/transport/slot_pipe/crash/random_kills_test
tests=$("$program" --gtest_list_tests --gtest_filter='*Within100Ms*' | sed -n 's/^  //p')
[ "$(wc -l <<<"$tests")" = 3 ] || { echo "three tests were wanted: $tests"; exit 1; }
unset XML_OUTPUT_FILE # one file for each would be needed
declare -A running
for test in $tests; do
  "$program" --gtest_filter="*.$test" >"$TEST_TMPDIR/$test" 2>&1 &
  running[$test]=$!
done
failed=0
for test in $tests; do
  wait "${running[$test]}" || failed=1
  cat "$TEST_TMPDIR/$test"
done
exit $failed
