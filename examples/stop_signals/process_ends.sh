# What clients print, and how they end, for tests of programs in bash, which source it. They have: $client; $endpoint, of its
# server; $output, a file; $failures, a count.

fail() {
  echo "FAILED, over ${endpoint:-none}: $1"
  sed 's/^/  | /' "$output" 2>/dev/null
  failures=$((failures + 1))
}

# expect_line PATTERN: the last output has a line that matches the extended regular expression.
expect_line() { grep -Eq -- "$1" "$output" || fail "no line matches: $1"; }

# ends PID STATUS WHAT
ends() {
  local status=0
  wait "$1" || status=$?
  [ "$status" = "$2" ] || fail "$3 ended with status $status instead of $2"
}

# unshown ARGUMENTS...: a client fails whose output gets nowhere.
unshown() {
  local status=0
  timeout 60 "$client" --server="$endpoint" "$@" 2>"$output" >/dev/full || status=$?
  [ "$status" = 1 ] || fail "exit status $status instead of 1 with a full device: $*"
  expect_line '^client: DATA_LOSS: cannot write to the standard output$'
}

# interrupted STATUS ARGUMENTS...: a client that waits for the server ends at once, so, by SIGTERM.
interrupted() {
  local expected=$1
  shift
  "$client" --server="$endpoint" "$@" >"$output" 2>&1 &
  local pid=$!
  # With its further threads it has done about signals what it does.
  until [ "$(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l)" -gt 1 ]; do
    kill -0 "$pid" || break
  done
  kill -TERM "$pid"
  ends "$pid" "$expected" "a client after SIGTERM ($*)"
}
