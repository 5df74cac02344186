#!/bin/bash
# The example prints what its README says, and leaves no pipe.
set -eu
export MI7_RUNTIME_DIR=$TEST_TMPDIR
examples/pipe_basic_usage/pipe_basic_usage >"$TEST_TMPDIR/output"
diff - "$TEST_TMPDIR/output" <<'END'
== Send and receive
  The answer is 42.
  A second message.
== The life of a slot
  slots: empty empty empty
  slots: empty writing empty
  slots: empty in progress empty
  slots: empty ready empty
  slots: empty reading empty
  slots: empty empty empty
== Errors are told apart
  nothing to fetch: UNAVAILABLE
  nothing within 10 ms: DEADLINE_EXCEEDED
  too large a message: INVALID_ARGUMENT
  no empty slot: RESOURCE_EXHAUSTED
  no such pipe: NOT_FOUND
  it exists: ALREADY_EXISTS
  not a name: INVALID_ARGUMENT
  a slot that is not ours any more: FAILED_PRECONDITION
== A message that is not released comes again
  attempt 1
  attempt 2, again
  attempt 3, again
  attempt 4, again
  attempt 5, again
  now a dead letter: Too hard for me.
== Statistics
  4 sent, 4 received, 4 redelivered, 1 dead-lettered
  3 of 3 slots are empty, 1 takes part
END
# What the README shows: the lines of its second block, in their order; "..." stands for others.
shown=$(awk '/^```/ { ++fence; next } fence == 3 && $0 != "..."' examples/pipe_basic_usage/README.md)
[ "$(wc -l <<<"$shown")" -ge 5 ]
rest=$(cat "$TEST_TMPDIR/output")
while IFS= read -r line; do
  at=$(grep -nFxm1 -- "$line" <<<"$rest" | cut -d: -f1)
  [ -n "$at" ] || { echo "the README shows a line that was not printed there: $line"; exit 1; }
  rest=$(tail -n "+$((at + 1))" <<<"$rest")
done <<<"$shown"
[ -z "$(ls "$MI7_RUNTIME_DIR/pipes")" ]
