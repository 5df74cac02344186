#!/bin/bash
# A room and those in it as processes, over each transport between processes: what they print, how
# they end, what they refuse.
set -u
server=examples/chat/server
client=examples/chat/client
output=$TEST_TMPDIR/output
failures=0
pids=()
sockets=$(mktemp -d /tmp/mi7-chat-XXXXXX)  # not in $TEST_TMPDIR: a socket's path has 107 bytes
trap 'kill -KILL "${pids[@]}" 2>/dev/null; rm -rf "$sockets"' EXIT

. examples/stop_signals/process_ends.sh

# run STATUS COMMAND...: runs it and checks its exit status.
run() {
  local expected=$1 status=0
  shift
  timeout 60 "$@" >"$output" 2>&1 </dev/null || status=$?
  [ "$status" = "$expected" ] || fail "exit status $status instead of $expected: $*"
}

# join NAME IN OUT: a client that says what is written to descriptor IN, and whose output is read from
# OUT. Its process is $guest.
join() {
  local input=$sockets/$transport-$1
  mkfifo "$input"
  # Without what others' input is written to, which would not end otherwise.
  eval "exec $3< <(exec 4>&- 6>&- 8>&- 10>&-
                   exec '$client' --server='$endpoint' --name='$1' <'$input' 2>&1)"
  guest=$!
  pids+=("$guest")
  eval "exec $2>'$input'"
}

# next FD TEXT: the next line of the descriptor is the text, but for warnings of clients that have
# ended before they were connected.
next() {
  local line=
  while read -r -t 60 -u "$1" line && [[ $line == "mi7 warning: refused "* ]]; do :; done
  [ "$line" = "$2" ] || fail "'$line' instead of '$2'"
}

# over ENDPOINT: a room's life there.
over() {
  endpoint=$1
  transport=${1%%:*}
  pids=()
  exec 3< <(exec "$server" --listen="$1" 2>&1)
  server_pid=$!
  pids+=("$server_pid")
  read -r -t 60 -u 3 line
  [[ $line = "listening on "* ]] || { fail "the server did not start: $line"; exit 1; }
  endpoint=${line#listening on }

  join ann 4 5
  ann=$guest
  next 5 "* with you in the room: nobody"
  join bob 6 7
  bob=$guest
  next 7 "* with you in the room: ann"
  next 5 "* bob comes"
  join carol 8 9
  carol=$guest
  next 9 "* with you in the room: ann, bob"
  next 5 "* carol comes"
  next 7 "* carol comes"

  echo "hello, all" >&4
  next 7 "ann: hello, all"
  next 9 "ann: hello, all"
  echo "hello, ann" >&6
  next 5 "bob: hello, ann"
  next 9 "bob: hello, ann"

  run 0 "$client" --server="$endpoint" --who
  [ "$(cat "$output")" = $'ann\nbob\ncarol' ] || fail "others are in the room"
  run 1 "$client" --server="$endpoint" --name=ann
  expect_line "^client: ALREADY_EXISTS: .*there is a ann in the room"
  run 1 "$client" --server="$endpoint" --name="a b"
  expect_line "^client: INVALID_ARGUMENT: .*a name has 1 to 32 letters"
  run 1 "$client" --server="$endpoint"
  expect_line "^client: INVALID_ARGUMENT: --name is missing"

  unshown --who
  # One that does not answer.
  kill -STOP "$server_pid"
  interrupted 143 --who
  interrupted 1 --name=eve
  expect_line '^client: CANCELLED: interrupted$'
  kill -CONT "$server_pid"

  # Ways to go: the end of the input, a signal, being killed.
  exec 4>&-
  ends "$ann" 0 "a client at the end of its input"
  next 7 "* ann goes"
  next 9 "* ann goes"
  kill -KILL "$bob"
  wait "$bob" 2>/dev/null
  next 9 "* bob goes"
  join dan 10 11
  dan=$guest
  next 11 "* with you in the room: carol"
  next 9 "* dan comes"
  kill -INT "$dan"
  ends "$dan" 0 "a client after SIGINT"
  next 9 "* dan goes"

  # Also one with more to say.
  mkfifo "$sockets/$transport-eve"
  exec 12<>"$sockets/$transport-eve"
  unshown --name=eve <&12
  exec 12>&-
  next 9 "* eve comes"
  next 9 "* eve goes"

  # Those who are there learn that the room closes, which does not wait for them.
  kill -TERM "$server_pid"
  ends "$server_pid" 0 "the server after SIGTERM"
  next 3 stopping
  next 9 "client: UNAVAILABLE: join: the room closes"
  ends "$carol" 1 "a client whose room closes"
  exec 6>&- 8>&- 10>&-

  run 1 "$client" --server="$endpoint" --timeout_s=20 --who
  expect_line "Open one with: server --listen=$endpoint"
}

for listen in tcp:127.0.0.1:0 mi7://127.0.0.1:0 unix:"$sockets/unix" shm:"$sockets/shm"; do over "$listen"; done

run 2 "$client" surplus
expect_line "unexpected argument 'surplus'"
run 2 "$server" surplus
expect_line "unexpected argument 'surplus'"

[ "$failures" = 0 ]
