#!/bin/bash
# Two producers and a consumer: every message arrives once. Then both sides are interrupted in the
# middle: what was sent is what was received and what is left in the pipe.
set -eu
export MI7_RUNTIME_DIR=$TEST_TMPDIR
producer=examples/async_producer/async_producer
consumer=examples/async_consumer/async_consumer

timeout 200 "$consumer" --messages=600 --print >"$TEST_TMPDIR/received" &
receiver=$!
timeout 200 "$producer" --messages=300 >"$TEST_TMPDIR/sent1" &
first=$!
timeout 200 "$producer" --messages=300 --workers=5 >"$TEST_TMPDIR/sent2" &
second=$!
wait "$first" "$second" "$receiver"
grep -qx 'sent 300' "$TEST_TMPDIR/sent1"
grep -qx 'received 600' "$TEST_TMPDIR/received"
distinct=$(grep '^process' "$TEST_TMPDIR/received" | cut -d' ' -f1-4 | sort -u | wc -l)
[ "$distinct" = 600 ] || { echo "$distinct distinct messages of 600"; exit 1; }

# interrupt SIGNAL SIGNAL: ends the consumer with the first and the producer with the second while
# messages flow. Each message that was sent is received, or left in the pipe, once.
interrupt() {
  "$producer" --messages=0 >"$TEST_TMPDIR/sent" &
  sender=$!
  "$consumer" --print >"$TEST_TMPDIR/received" &
  receiver=$!
  trap 'kill -KILL $sender $receiver 2>/dev/null || :' EXIT
  until grep -q producing "$TEST_TMPDIR/sent" && grep -q '^process' "$TEST_TMPDIR/received"; do
    kill -0 "$sender" "$receiver"  # or it would never end
  done
  kill -"$1" "$receiver"
  wait "$receiver"
  kill -"$2" "$sender"
  wait "$sender"
  trap - EXIT
  timeout 200 "$consumer" --print --idle_ms=100 >"$TEST_TMPDIR/rest"
  sent=$(sed -n 's/^sent //p' "$TEST_TMPDIR/sent")
  received=$(sed -n 's/^received //p' "$TEST_TMPDIR/received")
  rest=$(sed -n 's/^received //p' "$TEST_TMPDIR/rest")
  distinct=$(grep -h '^process' "$TEST_TMPDIR/received" "$TEST_TMPDIR/rest" | cut -d' ' -f1-4 | sort -u | wc -l)
  echo "$1 and $2: sent $sent, received $received, and $rest that were left; $distinct distinct"
  [ "$sent" -gt 0 ]
  [ "$received" -gt 0 ]
  [ "$sent" = $((received + rest)) ]
  [ "$distinct" = "$sent" ]
}
interrupt INT TERM
interrupt TERM INT
