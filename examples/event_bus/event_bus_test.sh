#!/bin/bash
# Each subscriber gets or is told to have missed every event; a killed one
# delays nobody; nothing is left behind.
set -eu
export MI7_RUNTIME_DIR=$TEST_TMPDIR
bus=examples/event_bus/event_bus
events=20000
pids=()
for i in 1 2 3; do
  "$bus" --subscribe >"$TEST_TMPDIR/out$i" &
  pids+=($!)
done
trap 'kill -KILL "${pids[@]}" 2>/dev/null || :' EXIT
until [ "$(ls "$TEST_TMPDIR/pipes" 2>/dev/null | wc -l)" = 3 ]; do
  kill -0 "${pids[@]}"  # or it would never end
done
kill -KILL "${pids[2]}"
wait "${pids[2]}" 2>/dev/null || :
timeout 200 "$bus" --publish="$events" --wait_for=3 >"$TEST_TMPDIR/published" 2>&1
cat "$TEST_TMPDIR/published"
grep -qx "published $events events to 2 subscribers" "$TEST_TMPDIR/published"
grep -q "${pids[2]} does not listen" "$TEST_TMPDIR/published"
for i in 1 2; do
  wait "${pids[$((i - 1))]}"
  cat "$TEST_TMPDIR/out$i"
  received=$(sed -n 's/^received \([0-9]*\), missed [0-9]*$/\1/p' "$TEST_TMPDIR/out$i")
  missed=$(sed -n 's/^received [0-9]*, missed //p' "$TEST_TMPDIR/out$i")
  [ $((received + missed)) = "$events" ]
  [ "$received" -gt 0 ]
done
[ -z "$(ls "$TEST_TMPDIR/pipes")" ]
