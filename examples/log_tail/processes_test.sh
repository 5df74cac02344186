#!/bin/bash
# Server and clients as processes, over each transport between processes: what they print, how they
# end, what they refuse.
set -u
server=examples/log_tail/server
client=examples/log_tail/client
log=$TEST_TMPDIR/app.log
output=$TEST_TMPDIR/output
failures=0
pids=()
sockets=$(mktemp -d /tmp/mi7-log-XXXXXX)  # not in $TEST_TMPDIR: a socket's path has 107 bytes
trap 'kill -KILL "${pids[@]}" 2>/dev/null; rm -rf "$sockets"' EXIT

. examples/stop_signals/process_ends.sh

# run STATUS COMMAND...: runs it and checks its exit status.
run() {
  local expected=$1 status=0
  shift
  timeout 60 "$@" >"$output" 2>&1 || status=$?
  [ "$status" = "$expected" ] || fail "exit status $status instead of $expected: $*"
}

# follow FD: starts a client whose output is read from the descriptor; its process is $follower.
follow() {
  eval "exec $1< <(exec '$client' --server='$endpoint' --lines=1 --follow tail app 2>&1)"
  follower=$!
  pids+=("$follower")
}

# next FD TEXT: the next line that is printed is the text, but for warnings of clients that have ended
# before they were connected.
next() {
  local line=
  while read -r -t 60 -u "$1" line && [[ $line == "mi7 warning: refused "* ]]; do :; done
  [ "$line" = "$2" ] || fail "'$line' instead of '$2'"
}

# over ENDPOINT: a server's life there.
over() {
  endpoint=$1
  pids=()
  printf 'one\ntwo\nthree\n' >"$log"
  exec 3< <(exec "$server" --logs=app="$log" --listen="$1" 2>&1)
  server_pid=$!
  pids+=("$server_pid")
  read -r -t 60 -u 3 line
  [[ $line = "listening on "* ]] || { fail "the server did not start: $line"; exit 1; }
  endpoint=${line#listening on }

  run 0 "$client" --server="$endpoint" list
  expect_line '^ +14 app$'
  run 0 "$client" --server="$endpoint" --lines=2 tail app
  [ "$(cat "$output")" = $'two\nthree' ] || fail "the last two lines are others"

  follow 4
  first=$follower
  follow 5
  second=$follower
  next 4 three
  next 5 three
  echo four >>"$log"
  next 4 four
  next 5 four

  # Ctrl-C is how one ends it: no failure, and nothing of it remains at the server.
  kill -INT "$first"
  ends "$first" 0 "a client after SIGINT"
  [ -z "$(cat <&4)" ] || fail "a client that was ended prints something"
  echo five >>"$log"
  next 5 five
  mv "$log" "$log.1"
  echo anew >"$log"
  next 5 "client: app starts anew"
  next 5 anew

  run 1 "$client" --server="$endpoint" tail other
  expect_line "^client: NOT_FOUND: .*no log 'other'; there are: app"
  run 1 "$server" --logs=app="$log" --listen="$endpoint"
  expect_line "^server: ALREADY_EXISTS: "

  unshown list
  # One that does not answer.
  kill -STOP "$server_pid"
  interrupted 143 list
  interrupted 1 tail app
  expect_line '^client: CANCELLED: interrupted$'
  kill -CONT "$server_pid"

  # Those who follow learn that the server stops, which does not wait for them.
  kill -TERM "$server_pid"
  ends "$server_pid" 0 "the server after SIGTERM"
  next 3 stopping
  next 5 "client: UNAVAILABLE: tail: the server stops"
  ends "$second" 1 "a client whose server stops"

  run 1 "$client" --server="$endpoint" --timeout_s=20 list
  expect_line "Start one with: server --logs="
}

for listen in tcp:127.0.0.1:0 mi7://127.0.0.1:0 unix:"$sockets/unix" shm:"$sockets/shm"; do over "$listen"; done

run 1 "$server"
expect_line "^server: INVALID_ARGUMENT: --logs is missing"
run 1 "$server" --logs=/var/log/app.log
expect_line "^server: INVALID_ARGUMENT: --logs: '/var/log/app.log' is not NAME=PATH"
run 2 "$client"
expect_line "tail NAME"
run 2 "$client" list surplus
run 2 "$server" surplus
expect_line "unexpected argument 'surplus'"

[ "$failures" = 0 ]
