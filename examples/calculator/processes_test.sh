#!/bin/bash
# Server and client as processes: what they print, how they end, what they refuse.
set -u
server=examples/calculator/server
client=examples/calculator/client
output=$TEST_TMPDIR/output
server_output=$TEST_TMPDIR/server
failures=0
server_pid=
trap '[ -z "$server_pid" ] || kill -KILL "$server_pid"' EXIT

fail() {
  echo "FAILED: $1"
  sed 's/^/  | /' "$output" 2>/dev/null
  failures=$((failures + 1))
}

# expect_line PATTERN: the last output has a line that matches the extended regular expression.
expect_line() { grep -Eq -- "$1" "$output" || fail "no line matches: $1"; }

# run STATUS COMMAND...: runs it and checks its exit status.
run() {
  local expected=$1 status=0
  shift
  timeout 120 "$@" >"$output" 2>&1 || status=$?
  [ "$status" = "$expected" ] || fail "exit status $status instead of $expected: $*"
}

# Starts the server, and waits for as many endpoints as the first argument says.
start_server() {
  local count=$1 line
  shift
  exec {lines}< <(exec "$server" "$@" 2>&1)
  server_pid=$!
  endpoints=()
  while [ ${#endpoints[@]} -lt "$count" ]; do
    read -r -t 60 -u "$lines" line || { fail "the server did not start: $*"; exit 1; }
    [[ $line = "listening on "* ]] && endpoints+=("${line#listening on }")
  done
}

# stop_server SIGNAL: sends it, and checks that the server says so and ends well.
stop_server() {
  local status=0
  kill -s "$1" "$server_pid"
  cat <&"$lines" >"$output"
  wait "$server_pid" || status=$?
  server_pid=
  exec {lines}<&-
  expect_line '^stopping$'
  [ "$status" = 0 ] || fail "the server ended with status $status after SIG$1"
}

expect_all_calls() {
  expect_line "^blocking +$1 +add\(2, 3\)  ->  5$"
  expect_line "^coroutine +$1 +average\(42, 7, -1\)  ->  16$"
  expect_line "^callback +$1 +factorize\(1001\)  ->  7 \* 11 \* 13$"
  expect_line "^error +$1 +divide\(7, 0\)  ->  INVALID_ARGUMENT: divide: 7 / 0"
  expect_line "^detail +$1 +DivisionProblem.dividend  ->  7$"
  expect_line "^deadline +$1 .* ->  DEADLINE_EXCEEDED: .* after [0-9]+ ms$"
  expect_line "^cancel +$1 .* ->  CANCELLED: "
  expect_line "^afterwards +$1 +factorize\(97\)  ->  97$"
  expect_line "^measured +$1 +200 calls of add, .*: p50 [0-9]+\.[0-9]+ us, p99 [0-9]+\.[0-9]+ us$"
}

start_server 2 --listen=tcp:127.0.0.1:0,tcp:localhost:0
run 0 "$client" --server="${endpoints[0]}" --measure=200
expect_line "^${endpoints[0]}: ready, calls go over tcp to"
expect_all_calls tcp
run 0 "$client" --server="mi7://${endpoints[1]#tcp:}" --measure=200
expect_all_calls tcp

# A second server cannot have the port of the first one.
run 1 "$server" --listen="${endpoints[0]}"
expect_line "^server: ALREADY_EXISTS: .*${endpoints[0]##*:}"

stop_server TERM
run 1 "$client" --server="${endpoints[0]}" --timeout_s=20
expect_line '^client: UNAVAILABLE: '
expect_line "Start one with: server --listen=${endpoints[0]}$"

start_server 1 --listen=tcp:127.0.0.1:0
stop_server INT

run 0 "$client" --server=inproc:calculator --measure=200
expect_all_calls inproc

run 1 "$client" --server=nonsense
expect_line '^client: INVALID_ARGUMENT: .*nonsense'
run 1 "$server" --listen=udp:127.0.0.1:0
expect_line '^server: INVALID_ARGUMENT: .*udp'
run 2 "$client" surplus
expect_line "unexpected argument 'surplus'"
run 2 "$server" surplus
expect_line "unexpected argument 'surplus'"

[ "$failures" = 0 ]
