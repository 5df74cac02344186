#!/bin/bash
# Each subscriber gets or is told to have missed every event; a killed and a stopped one
# delay nobody; nothing is left behind.
set -eu
export MI7_RUNTIME_DIR=$TEST_TMPDIR
bus=examples/event_bus/event_bus
events=20000
pids=()
for i in 1 2 3 4; do
  "$bus" --subscribe >"$TEST_TMPDIR/out$i" &
  pids+=($!)
done
trap 'kill -KILL "${pids[@]}" 2>/dev/null || :' EXIT
until [ "$(cat "$TEST_TMPDIR"/out[1-4] | grep -c '^listening as bus\.')" = 4 ]; do
  kill -0 "${pids[@]}"  # or it would never end
done
kill -KILL "${pids[2]}"
wait "${pids[2]}" 2>/dev/null || :
kill -STOP "${pids[3]}"
timeout 200 "$bus" --publish="$events" --wait_for=4 >"$TEST_TMPDIR/published" 2>&1
cat "$TEST_TMPDIR/published"
grep -qx "published $events events to 2 subscribers" "$TEST_TMPDIR/published"
grep -q "${pids[2]} does not listen" "$TEST_TMPDIR/published"
grep -q "${pids[3]} does not listen" "$TEST_TMPDIR/published"
for i in 1 2; do
  wait "${pids[$((i - 1))]}"
  cat "$TEST_TMPDIR/out$i"
  received=$(sed -n 's/^received \([0-9]*\), missed [0-9]*$/\1/p' "$TEST_TMPDIR/out$i")
  missed=$(sed -n 's/^received [0-9]*, missed //p' "$TEST_TMPDIR/out$i")
  [ $((received + missed)) = "$events" ]
  [ "$received" -gt 0 ]
done
# The pipe of the dead one is gone, that of the stopped one is full of events that it may go on with.
[ "$(ls "$TEST_TMPDIR/pipes")" = "bus.${pids[3]}" ]
kill -KILL "${pids[3]}"
wait "${pids[3]}" 2>/dev/null || :
# Who publishes next finds out.
timeout 200 "$bus" --publish=1 >"$TEST_TMPDIR/published" 2>&1
grep -q "${pids[3]} does not listen" "$TEST_TMPDIR/published"
[ -z "$(ls "$TEST_TMPDIR/pipes")" ]
