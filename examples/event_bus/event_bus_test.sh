#!/bin/bash
# Each subscriber gets or is told to have missed every event; a killed and a stopped one
# delay nobody, and are not counted; nothing is left behind.
set -eu
export MI7_RUNTIME_DIR=$TEST_TMPDIR
bus=examples/event_bus/event_bus
pids=()
publisher=
trap 'kill -KILL "${pids[@]}" $publisher 2>/dev/null || :' EXIT

# subscribe N: starts subscriber N, which listens then.
subscribe() {
  "$bus" --subscribe >"$TEST_TMPDIR/out$1" &
  pids[$1]=$!
  until grep -q '^listening as bus\.' "$TEST_TMPDIR/out$1"; do
    kill -0 "${pids[$1]}"  # or it would never end
  done
}
# publish ARGUMENTS...: starts a publisher.
publish() {
  "$bus" "$@" >"$TEST_TMPDIR/published" 2>&1 &
  publisher=$!
}
# found N: waits until the publisher has come to subscriber N, and is done with those it came to before.
found() {
  until grep -q "pipes/bus\.${pids[$1]}" "/proc/$publisher/maps"; do
    kill -0 "$publisher"
  done
}
# killed N
killed() {
  kill -KILL "${pids[$1]}"
  wait "${pids[$1]}" 2>/dev/null || :
}
# published EVENTS SUBSCRIBERS: how the publisher ends.
published() {
  wait "$publisher"
  cat "$TEST_TMPDIR/published"
  grep -qx "published $1 events to $2 subscribers" "$TEST_TMPDIR/published"
}
# told N EVENTS: how a subscriber ends.
told() {
  wait "${pids[$1]}"
  cat "$TEST_TMPDIR/out$1"
  received=$(sed -n 's/^received \([0-9]*\), missed [0-9]*$/\1/p' "$TEST_TMPDIR/out$1")
  missed=$(sed -n 's/^received [0-9]*, missed //p' "$TEST_TMPDIR/out$1")
  [ $((received + missed)) = "$2" ]
  [ "$received" -gt 0 ]
}

events=20000
for i in 1 2 3 4; do subscribe "$i"; done
publish --publish="$events" --wait_for=6
for i in 1 2 3 4; do found "$i"; done
subscribe 5
found 5
killed 3
kill -STOP "${pids[4]}"
subscribe 6
published "$events" 4
grep -q "${pids[3]} does not listen" "$TEST_TMPDIR/published"
grep -q "${pids[4]} does not listen" "$TEST_TMPDIR/published"
for i in 1 2 5 6; do told "$i" "$events"; done
# The pipe of the dead one is gone, that of the stopped one is full of events that it may go on with.
[ "$(ls "$TEST_TMPDIR/pipes")" = "bus.${pids[4]}" ]

# Who publishes next does not count those who have died before, also with room in their pipes.
killed 4
subscribe 7
killed 7
subscribe 8
publish --publish=5
published 5 1
told 8 5
[ -z "$(ls "$TEST_TMPDIR/pipes")" ]

# Nor those who die while it waits for others.
subscribe 9
publish --publish=5 --wait_for=3
found 9
subscribe 10
found 10
killed 9
subscribe 11
published 5 2
grep -q "${pids[9]} does not listen" "$TEST_TMPDIR/published"
for i in 10 11; do told "$i" 5; done
[ -z "$(ls "$TEST_TMPDIR/pipes")" ]
