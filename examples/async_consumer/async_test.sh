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

"$producer" --messages=0 >"$TEST_TMPDIR/sent" &
sender=$!
"$consumer" >"$TEST_TMPDIR/received" &
receiver=$!
trap 'kill -KILL $sender $receiver 2>/dev/null || :' EXIT
until grep -q producing "$TEST_TMPDIR/sent" && grep -q consuming "$TEST_TMPDIR/received"; do
  kill -0 "$sender" "$receiver"  # or it would never end
done
kill -INT "$receiver"
wait "$receiver"
kill -TERM "$sender"
wait "$sender"
timeout 200 "$consumer" --idle_ms=100 >"$TEST_TMPDIR/rest"
sent=$(sed -n 's/^sent //p' "$TEST_TMPDIR/sent")
received=$(sed -n 's/^received //p' "$TEST_TMPDIR/received")
rest=$(sed -n 's/^received //p' "$TEST_TMPDIR/rest")
echo "sent $sent, received $received, and $rest that were left"
[ "$sent" = $((received + rest)) ]
