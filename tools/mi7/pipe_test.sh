#!/bin/bash
# Every verb of `mi7 pipe`: what it prints for people and for programs, and how it fails.
set -u
mi7=tools/mi7/mi7
export MI7_RUNTIME_DIR=$TEST_TMPDIR/runtime
mkdir -p "$MI7_RUNTIME_DIR"
output=$TEST_TMPDIR/output
failures=0

fail() {
  echo "FAILED: $1"
  sed 's/^/  | /' "$output"
  failures=$((failures + 1))
}
# run STATUS COMMAND...: runs it and checks its exit status.
run() {
  local expected=$1 status=0
  shift
  timeout 60 "$@" >"$output" 2>&1 </dev/null || status=$?
  [ "$status" = "$expected" ] || fail "exit status $status instead of $expected: $*"
}
expect_line() { grep -Eq -- "$1" "$output" || fail "no line matches: $1"; }
# Between two looks at what $receiver does.
still_runs() {
  kill -0 "$receiver" 2>/dev/null || { fail 'the receiver has ended'; exit 1; }
}
# The output is JSON, a value a line.
expect_json() {
  python3 -c 'import json, sys; [json.loads(line) for line in sys.stdin]' <"$output" ||
    fail "this is no JSON"
}

run 0 "$mi7" --help
expect_line 'pipe +Slot pipes'
run 0 "$mi7" pipe --help
for verb in ls status send receive dead-letters redrive bench recover rm; do
  expect_line "^  $verb +[A-Z]"
  run 0 "$mi7" pipe "$verb" --help
  expect_line 'Usage: mi7 pipe '"$verb"
  run 0 "$mi7" pipe --help
done
run 106 "$mi7"
run 106 "$mi7" pipe status

run 0 "$mi7" pipe ls
expect_line 'There is no slot pipe'
run 1 "$mi7" pipe status jobs
expect_line "NOT_FOUND: slot pipe 'jobs': there is none in $MI7_RUNTIME_DIR/pipes"
run 1 "$mi7" pipe send 'no/name' text
expect_line 'INVALID_ARGUMENT'

run 0 "$mi7" pipe send jobs one 'two "quoted"' three --create --slots=4 --slot-bytes=64
expect_line '^sent 3$'
run 0 "$mi7" pipe ls
expect_line '^jobs +4 slots of +64 bytes +3 ready +0 taking part$'
run 0 "$mi7" pipe ls --json && expect_json
run 0 "$mi7" pipe status jobs
expect_line '^jobs: 4 slots of 64 bytes'
expect_line '1 empty, 0 writing, 3 ready, 0 reading'
expect_line '3 sent, 0 received'
run 0 "$mi7" pipe status jobs --json && expect_json
expect_line '"ready":3'
run 124 timeout 5 "$mi7" pipe status jobs --live --interval=0.01 --json
expect_json
[ "$(wc -l <"$output")" -gt 5 ] || fail 'a live status is shown again and again'
run 124 timeout 3 "$mi7" pipe status jobs --live --interval=0.01
[ "$(grep -c '^jobs: 4 slots of 64 bytes' "$output")" -gt 5 ] || fail 'and for people'
[ "$(grep -c '^  messages  3 sent, 0 received' "$output")" -gt 5 ] || fail 'with all of it'

# Interrupted between two looks: it ends at once.
"$mi7" pipe status jobs --live --interval=600 >"$TEST_TMPDIR/live" 2>&1 &
live=$!
until grep -q '^jobs: 4 slots' "$TEST_TMPDIR/live"; do
  kill -0 "$live" 2>/dev/null || { fail 'the live status has ended'; exit 1; }
done
kill -INT "$live"
timeout 30 tail --pid="$live" -f /dev/null || { fail 'an interrupted live status ends at once'; kill -KILL "$live"; }
wait "$live" || fail 'an interrupted live status ends well'
# A terminal is cleared before each look; what is no terminal was not, above.
! grep -q $'\033' "$TEST_TMPDIR/live" || fail 'no terminal, nothing to clear'
if [ -n "$(type -P script)" ]; then
  # 124: timeout says that it sent the signal.
  run 124 script -qec "timeout --foreground -s INT 3 $mi7 pipe status jobs --live --interval=0.05" /dev/null
  [ "$(grep -c $'\033\[H\033\[2J' "$output")" -gt 5 ] || fail 'a terminal is cleared'
else
  echo "NOTICE: script is not installed, so a live status on a terminal was not tested"
fi

run 1 "$mi7" pipe send jobs four five --timeout=0.05
expect_line '^sent 1$'
expect_line 'DEADLINE_EXCEEDED: .*all 4 slots'
run 1 "$mi7" pipe send jobs "$(printf 'x%.0s' {1..65})" --timeout=0
run 0 "$mi7" pipe receive jobs
expect_line '^one$'
run 1 "$mi7" pipe send jobs "$(printf 'x%.0s' {1..65})" --timeout=0
expect_line 'INVALID_ARGUMENT: .*65 bytes'
run 0 "$mi7" pipe receive jobs --count=3 --json
expect_json
expect_line '"attempt":1,"bytes":12,"text":"two \\"quoted\\""'
run 1 "$mi7" pipe receive jobs --timeout=0.05
expect_line 'DEADLINE_EXCEEDED'
# What is no number of seconds is not taken for a wait without end.
for seconds in nan -nan inf -1 soon; do
  run 105 "$mi7" pipe receive jobs --timeout="$seconds"
  expect_line '^--timeout: '
  run 105 "$mi7" pipe send jobs text --timeout="$seconds"
  expect_line '^--timeout: '
  run 105 "$mi7" pipe status jobs --live --interval="$seconds"
  expect_line '^--interval: '
done
run 0 "$mi7" pipe receive jobs --dead-letters

# Text goes through as it is, and bytes that are no text do not break what reads the JSON.
run 0 "$mi7" pipe send jobs 'é €' $'a\xffz\x01'
run 0 "$mi7" pipe receive jobs --count=2 --json
expect_json
grep -Fq '"text":"é €"' "$output" || fail 'UTF-8 is passed through'
grep -Fq '"text":"a\u00ffz\u0001"' "$output" || fail 'other bytes are escaped'

printf 'a\nb\n' | "$mi7" pipe send jobs 2>/dev/null || fail 'lines of stdin are sent'
run 0 "$mi7" pipe receive jobs --count=2
expect_line '^b$'

# Wrong words and numbers are named, with what may be there.
run 106 "$mi7" pipe nope
expect_line "unknown command 'nope'; after 'mi7 pipe' comes one of ls status send receive dead-letters redrive"
run 105 "$mi7" pipe receive jobs --count=-1
expect_line '--count'

# What is no pipe is listed with what is wrong with it, for people and for programs.
echo 'this is no pipe' >"$MI7_RUNTIME_DIR/pipes/garbage"
chmod 600 "$MI7_RUNTIME_DIR/pipes/garbage"
run 0 "$mi7" pipe ls
expect_line "^garbage +DATA_LOSS: .*is too short for a pipe"
run 0 "$mi7" pipe ls --json && expect_json
expect_line '^\{"name":"garbage","error":"DATA_LOSS: .* is too short for a pipe","error_kind":"damaged"\}$'
run 0 "$mi7" pipe rm garbage

# What fits no slot is refused, not waited for, also where the pipe is full.
run 0 "$mi7" pipe send small a --create --slots=1 --slot-bytes=8
run 1 "$mi7" pipe send small much-more-than-eight-bytes
expect_line 'INVALID_ARGUMENT: .*26 bytes is larger than a slot, which has 8'
# One that is there is taken as it is, whatever the sizes of a new one would be.
run 0 "$mi7" pipe receive small --create
expect_line '^a$'
run 0 "$mi7" pipe send small b --create --slots=2
run 0 "$mi7" pipe status small
expect_line '^small: 1 slots of 8 bytes'
run 0 "$mi7" pipe rm small --force

# Interrupted while it waits: a clean end.
"$mi7" pipe receive jobs --count=0 >"$TEST_TMPDIR/received" 2>&1 &
receiver=$!
until "$mi7" pipe status jobs | grep -q 'taking part: 1'; do still_runs; done
run 1 "$mi7" pipe rm jobs
expect_line 'FAILED_PRECONDITION: .*takes part in it'
run 0 "$mi7" pipe send jobs last --json && expect_json
until grep -q last "$TEST_TMPDIR/received"; do still_runs; done
kill -INT "$receiver"
wait "$receiver" || fail 'an interrupted receive ends well'

# One that is killed leaves a place, which is recovered.
"$mi7" pipe receive jobs >/dev/null 2>&1 &
receiver=$!
until "$mi7" pipe status jobs | grep -q 'taking part: 1'; do still_runs; done
kill -KILL "$receiver"
wait "$receiver" 2>/dev/null
run 0 "$mi7" pipe status jobs
expect_line 'dead: not recovered yet'
run 0 "$mi7" pipe recover jobs
expect_line '^recovered 0 slots of 1 dead participants$'

# One that is killed with a message in its hands, because nobody reads what it prints, leaves that,
# too. After the fifth it is a dead letter, which can be read.
mkfifo "$TEST_TMPDIR/unread"
exec 9<>"$TEST_TMPDIR/unread"
head -c 100000 /dev/zero | tr '\0' x | "$mi7" pipe send large --create --slots=2 --slot-bytes=131072 2>/dev/null ||
  fail 'a long line is sent'
for attempt in 1 2 3 4 5; do
  "$mi7" pipe receive large >&9 2>/dev/null &
  receiver=$!
  until "$mi7" pipe status large | grep -q ' 1 reading'; do still_runs; done
  kill -KILL "$receiver"
  wait "$receiver" 2>/dev/null
  run 0 "$mi7" pipe status large
  expect_line 'has 1 slots, dead: not recovered yet'
  if [ "$attempt" = 1 ]; then
    run 0 "$mi7" pipe recover large
    expect_line '^recovered 1 slots of 1 dead participants$'
  else
    run 0 "$mi7" pipe recover large --json
    expect_json
    expect_line '^\{"participants":1,"slots":1\}$'
  fi
  run 0 "$mi7" pipe recover large
  expect_line '^recovered 0 slots of 0 dead participants$'
done
exec 9>&-
run 0 "$mi7" pipe status large
expect_line '1 empty, 0 writing, 0 ready, 0 reading, 0 in progress, 1 dead letters'
expect_line '1 sent, 0 received, 4 redelivered, 1 dead-lettered'
run 1 "$mi7" pipe receive large --timeout=0.05
expect_line 'DEADLINE_EXCEEDED'
# It can be looked at as often as one likes, and be sent again.
for _ in 1 2; do
  run 0 "$mi7" pipe dead-letters large
  expect_line '^slot +[01]   5 attempts    100000 bytes  "x{60}"\.\.\.$'
  [ "$(wc -l <"$output")" = 1 ] || fail 'a line for each'
  run 0 "$mi7" pipe dead-letters large --json
  expect_json
  expect_line '^\{"slot":[01],"attempt":5,"bytes":100000,"overwritten":false,"text":"x{9}'
  run 0 "$mi7" pipe receive large --dead-letters --keep --count=0
  [ "$(tr -d '\n' <"$output" | wc -c)" = 100000 ] || fail 'the whole message, once'
done
run 0 "$mi7" pipe status large
expect_line '1 dead letters$'
expect_line '1 sent, 0 received, 4 redelivered, 1 dead-lettered'
run 107 "$mi7" pipe receive large --keep
slot=$("$mi7" pipe dead-letters large --json | sed 's/.*"slot":\([01]\),.*/\1/')
run 1 "$mi7" pipe redrive large --slot=$((1 - slot))
expect_line "NOT_FOUND: slot pipe 'large': there is no dead letter in slot $((1 - slot))"
run 0 "$mi7" pipe redrive large --slot="$slot"
expect_line '^redriven 1, 0 dead letters are left$'
run 0 "$mi7" pipe dead-letters large
expect_line '^There is no dead letter\.$'
run 0 "$mi7" pipe dead-letters large --json
[ ! -s "$output" ] || fail 'no dead letter, no line'
run 0 "$mi7" pipe redrive large --json
expect_json
expect_line '^\{"redriven":0,"dead_letters":0\}$'
# Its attempts are forgotten: a dead letter again after five more.
for attempt in 1 2 3 4 5; do
  run 1 sh -c "'$mi7' pipe receive large >/dev/full"
  expect_line 'stdout cannot be written; the message stays in the pipe'
done
run 0 "$mi7" pipe status large
expect_line '1 dead letters$'
run 0 "$mi7" pipe redrive large
expect_line '^redriven 1, 0 dead letters are left$'
run 0 "$mi7" pipe receive large --json
expect_line '^\{"slot":[01],"attempt":1,"bytes":100000,"text":"x{9}'
head -c 100000 /dev/zero | tr '\0' x | "$mi7" pipe send large 2>/dev/null || fail 'a line is sent'
for attempt in 1 2 3 4 5; do run 1 sh -c "'$mi7' pipe receive large >/dev/full"; done

run 0 "$mi7" pipe receive large --dead-letters
[ "$(tr -d '\n' <"$output" | wc -c)" = 100000 ] || fail 'the whole message'
! grep -q '[^x]' "$output" || fail 'nothing but the message'
run 0 "$mi7" pipe status large
expect_line '2 empty'
run 0 "$mi7" pipe rm large

run 0 "$mi7" pipe bench --count=1000
expect_line 'one thread, one message at a time: +[0-9.]+ ns each'
run 0 "$mi7" pipe bench
expect_line '^1000000 messages of 64 bytes'
run 0 "$mi7" pipe bench --count=1000 --json && expect_json
run 0 "$mi7" pipe rm jobs --json && expect_json
run 1 "$mi7" pipe rm jobs
expect_line 'NOT_FOUND'
[ -z "$(ls "$MI7_RUNTIME_DIR/pipes")" ] || fail 'a pipe is left'
[ "$failures" = 0 ]
