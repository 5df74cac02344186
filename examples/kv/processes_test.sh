#!/bin/bash
# A store and its clients as processes, over each transport between processes: what they print, how
# they end, what they refuse.
set -u
server=examples/kv/server
client=examples/kv/client
output=$TEST_TMPDIR/output
failures=0
server_pid=
watcher=
sockets=$(mktemp -d /tmp/mi7-kv-XXXXXX)  # not in $TEST_TMPDIR: a socket's path has 107 bytes
trap 'kill -KILL $server_pid $watcher 2>/dev/null; rm -rf "$sockets"' EXIT

. examples/stop_signals/process_ends.sh

# run STATUS COMMAND...: runs it and checks its exit status.
run() {
  local expected=$1 status=0
  shift
  timeout 60 "$@" >"$output" 2>&1 || status=$?
  [ "$status" = "$expected" ] || fail "exit status $status instead of $expected: $*"
}

# store STATUS ARGUMENTS...: runs a client.
store() {
  local status=$1
  shift
  run "$status" "$client" --server="$endpoint" "$@"
}

# next FD TEXT: the next line of the descriptor is the text.
next() {
  local line=
  read -r -t 60 -u "$1" line
  [ "$line" = "$2" ] || fail "'$line' instead of '$2'"
}

# start ENDPOINT
start() {
  exec 3< <(exec "$server" --database="$database" --listen="$1" 2>&1)
  server_pid=$!
  local line=
  read -r -t 60 -u 3 line
  [[ $line = "listening on "* ]] || { fail "the server did not start: $line"; exit 1; }
  endpoint=${line#listening on }
}

# over ENDPOINT: a store's life there.
over() {
  database=$TEST_TMPDIR/store-${1%%:*}.db
  start "$1"
  store 0 put a one
  expect_line '^revision 1$'
  store 0 get a
  expect_line '^one \(revision 1\)$'
  store 1 get b
  expect_line "^client: NOT_FOUND: get: 'b' does not exist"
  store 1 --if_revision=7 put a two
  expect_line "^client: ABORTED: put: 'a' has revision 1, not 7"
  store 0 --if_revision=1 put a two
  store 0 put b/1 x
  store 0 put b/2 y
  store 0 list b/
  [ "$(cat "$output")" = $'b/1 = x (revision 3)\nb/2 = y (revision 4)' ] || fail "another list"

  exec 4< <(exec "$client" --server="$endpoint" watch 2>/dev/null)
  watcher=$!
  next 4 '2 a = two'
  next 4 '3 b/1 = x'
  next 4 '4 b/2 = y'
  store 0 remove a
  next 4 '5 removed a'

  # A server that is killed has lost nothing it answered for, and who watches goes on by itself.
  kill -KILL "$server_pid"
  wait "$server_pid" 2>/dev/null
  start "$endpoint"
  store 0 put c three
  expect_line '^revision 6$'
  next 4 '6 c = three'
  kill -TERM "$server_pid"
  ends "$server_pid" 0 "the server after SIGTERM"
  next 3 stopping
  start "$endpoint"
  store 0 put d four
  next 4 '7 d = four'
  kill -INT "$watcher"
  ends "$watcher" 0 "a watching client after SIGINT"
  [ -z "$(cat <&4)" ] || fail "a client that was ended prints something"
  watcher=

  unshown get c
  unshown list
  unshown watch

  run 1 "$server" --database="$database" --listen="$1"
  expect_line "^server: FAILED_PRECONDITION: $database: .*another process has it"
  kill -INT "$server_pid"
  ends "$server_pid" 0 "the server after SIGINT"
  server_pid=
  store 1 --timeout_s=1 get a
  expect_line "^client: (DEADLINE_EXCEEDED|UNAVAILABLE): "
  interrupted 143 get a
  interrupted 143 list
  interrupted 0 watch
}

for listen in tcp:127.0.0.1:0 mi7://127.0.0.1:0 unix:"$sockets/unix" shm:"$sockets/shm"; do over "$listen"; done

run 1 "$server"
expect_line "^server: INVALID_ARGUMENT: --database is missing"
run 2 "$client" get
expect_line "put KEY VALUE"
run 2 "$client" nonsense
run 2 "$server" surplus
expect_line "unexpected argument 'surplus'"

[ "$failures" = 0 ]
