#!/bin/bash
# What the program prints, with few and with many values.
set -eu
export MI7_RUNTIME_DIR=$TEST_TMPDIR
channels=examples/channels/channels

expect() {
  diff - "$TEST_TMPDIR/out"
}

timeout 200 "$channels" --values=1000 >"$TEST_TMPDIR/out"
expect <<'END'
fan-in: 3000 values of 3 producers, sum 4498500
back-pressure: 1000 values, at most 4 unread
select: 1000 numbers, 1000 words, 1000 messages
pipeline: 2000 squares, sum 2664667000
errors
  empty: UNAVAILABLE
  full: RESOURCE_EXHAUSTED
  late: DEADLINE_EXCEEDED
  closed, to send: CANCELLED
  closed and empty, to receive: CANCELLED
END

timeout 200 "$channels" --values=5 >"$TEST_TMPDIR/out"
expect <<'END'
fan-in: 15 values of 3 producers, sum 105
back-pressure: 5 values, at most 4 unread
select: 5 numbers, 5 words, 5 messages
pipeline: 10 squares, sum 285
errors
  empty: UNAVAILABLE
  full: RESOURCE_EXHAUSTED
  late: DEADLINE_EXCEEDED
  closed, to send: CANCELLED
  closed and empty, to receive: CANCELLED
END
[ -z "$(ls "$TEST_TMPDIR/pipes")" ]
