#!/bin/bash
# Two producers and a consumer: every message arrives once. Then both sides are interrupted in the
# middle, either of them first: what was sent is what was received and what is left in the pipe. What
# a consumer has not printed, because it was killed or could not, the next one gets.
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

# end NAME SIGNAL: ends the producer or the consumer, cleanly.
end() {
  local process=$sender
  [ "$1" = producer ] || process=$receiver
  kill -"$2" "$process"
  wait "$process"
}

# interrupt NAME SIGNAL NAME SIGNAL: ends one of producer and consumer while messages flow, then the
# other. Each message that was sent is received, or left in the pipe, once.
interrupt() {
  # What the last ones have said must not be taken for what these say.
  : >"$TEST_TMPDIR/sent"
  : >"$TEST_TMPDIR/received"
  "$producer" --messages=0 >"$TEST_TMPDIR/sent" &
  sender=$!
  "$consumer" --print >"$TEST_TMPDIR/received" &
  receiver=$!
  trap 'kill -KILL $sender $receiver 2>/dev/null || :' EXIT
  until grep -q producing "$TEST_TMPDIR/sent" && grep -q '^process' "$TEST_TMPDIR/received"; do
    kill -0 "$sender" "$receiver"  # or it would never end
  done
  end "$1" "$2"
  end "$3" "$4"
  trap - EXIT
  timeout 200 "$consumer" --print --idle_ms=100 >"$TEST_TMPDIR/rest"
  sent=$(sed -n 's/^sent //p' "$TEST_TMPDIR/sent")
  received=$(sed -n 's/^received //p' "$TEST_TMPDIR/received")
  rest=$(sed -n 's/^received //p' "$TEST_TMPDIR/rest")
  distinct=$(grep -h '^process' "$TEST_TMPDIR/received" "$TEST_TMPDIR/rest" | cut -d' ' -f1-4 | sort -u | wc -l)
  echo "$1 $2, $3 $4: sent $sent, received $received, and $rest that were left; $distinct distinct"
  [ "$sent" -gt 0 ]
  [ "$received" -gt 0 ]
  [ "$sent" = $((received + rest)) ]
  [ "$distinct" = "$sent" ]
}
interrupt consumer INT producer TERM
# Who ends first has slots at its workers.
interrupt producer INT consumer TERM

# unprinted N: the next consumer gets what is not among the N messages that were printed.
unprinted() {
  timeout 200 "$consumer" --print --idle_ms=100 >"$TEST_TMPDIR/rest"
  distinct=$(grep -h '^process' "$TEST_TMPDIR/received" "$TEST_TMPDIR/rest" | cut -d' ' -f1-4 | sort -u | wc -l)
  [ "$distinct" = "$1" ] || { echo "$distinct distinct messages of $1"; exit 1; }
}
# The pipe holds ten of them: most are received when the producer has ended.
"$consumer" --print >"$TEST_TMPDIR/received" &
receiver=$!
trap 'kill -KILL $receiver 2>/dev/null || :' EXIT
timeout 200 "$producer" --messages=50
kill -KILL "$receiver"
wait "$receiver" 2>/dev/null || :
trap - EXIT
unprinted 50

timeout 200 "$producer" --messages=5
: >"$TEST_TMPDIR/received"
status=0
timeout 200 "$consumer" --print >/dev/full 2>"$TEST_TMPDIR/errors" || status=$?
[ "$status" = 1 ]
grep -qx 'async_consumer: cannot write to the standard output' "$TEST_TMPDIR/errors"
unprinted 5
