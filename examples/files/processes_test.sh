#!/bin/bash
# Server and client as processes: files there and back, what is refused, and what is left behind.
set -u
server=examples/files/server
client=examples/files/client
output=$TEST_TMPDIR/output
served=$TEST_TMPDIR/served
tree=$TEST_TMPDIR/tree
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

# call STATUS ARGUMENT...: the client, with the server's endpoint.
call() {
  local expected=$1
  shift
  run "$expected" "$client" --server="$endpoint" "$@"
}

start_server() {
  local line
  exec {lines}< <(exec "$server" --root "$served" --listen tcp:127.0.0.1:0 "$@" 2>&1)
  server_pid=$!
  read -r -t 60 -u "$lines" line && [[ $line = "listening on tcp:127.0.0.1:"* ]] || {
    fail "the server did not start: ${line-}"
    exit 1
  }
  endpoint=${line#listening on }
}

# stop_server SIGNAL STATUS: sends it, and checks how the server ends.
stop_server() {
  local status=0
  kill -s "$1" "$server_pid"
  wait "$server_pid" || status=$?
  server_pid=
  exec {lines}<&-
  [ "$status" = "$2" ] || fail "the server ended with status $status instead of $2 after SIG$1"
}

# expect_served NAME...: exactly these are in the served directory.
expect_served() {
  local names
  names=$(ls -A "$served" | tr '\n' ' ')
  [ "$names" = "$* " ] || fail "the server's directory holds: $names; expected: $*"
}

mkdir -p "$served" "$tree"
start_server

# One file there and back, its mode included.
printf 'one\n' >"$tree/one" && chmod 0751 "$tree/one"
call 0 put "$tree/one" file
expect_line '^file: 4 bytes over tcp$'
call 0 get file "$TEST_TMPDIR/back"
cmp "$tree/one" "$TEST_TMPDIR/back" || fail "get gave other bytes than put took"
[ "$(stat -c %a "$TEST_TMPDIR/back")" = 751 ] || fail "the mode got lost"
call 0 mkdir dir
call 0 put "$tree/one" dir/file
call 0 ls
expect_line '^directory 0755 +0  .*  dir$'
expect_line '^file      0751 +4  .*  file$'
call 0 stat dir/file
expect_line '^file .* dir/file$'

# Refusals name what is refused. A client's message begins with its status.
ln -s /etc/passwd "$served/out"
ln -s "$TEST_TMPDIR" "$served/up"
call 1 get ../tree/one "$TEST_TMPDIR/never" && expect_line "^client: INVALID_ARGUMENT: .*'../tree/one'"
call 1 get /etc/passwd "$TEST_TMPDIR/never" && expect_line "^client: INVALID_ARGUMENT: .*absolute"
call 1 get out "$TEST_TMPDIR/never" && expect_line "^client: PERMISSION_DENIED: .*'out'"
call 1 get up/tree/one "$TEST_TMPDIR/never" && expect_line "^client: PERMISSION_DENIED: .*'up/tree/one'"
call 1 put "$tree/one" up/new && expect_line "^client: PERMISSION_DENIED: .*'up/new'"
call 1 put "$tree/one" ../new && expect_line "^client: INVALID_ARGUMENT: .*'../new'"
call 1 stat '' && expect_line '^client: INVALID_ARGUMENT: .*empty'
call 1 stat "$(printf 'n%.0s' {1..256})" && expect_line '^client: INVALID_ARGUMENT: .*256 bytes'
call 1 get none "$TEST_TMPDIR/never" && expect_line "^client: NOT_FOUND: .*'none'"
call 1 mkdir dir && expect_line "^client: ALREADY_EXISTS: .*'dir'"
call 1 rm dir && expect_line "^client: FAILED_PRECONDITION: .*'dir'"
call 1 put "$TEST_TMPDIR/none" x && expect_line "^client: NOT_FOUND: .*none"
[ ! -e "$TEST_TMPDIR/never" ] && [ ! -e "$TEST_TMPDIR/new" ] || fail "a refused call left a file"
call 2 get one && expect_line 'get REMOTE LOCAL'
call 2 juggle && expect_line 'verify-tree LOCAL_DIRECTORY'

# A tree with everything that trees have: depth, empty files and directories, odd names, links,
# modes, files of no, one and several ranges, and more files than a page of a directory holds.
mkdir -p "$tree/a/b/c" "$tree/empty" "$tree/many"
: >"$tree/a/empty"
head -c 1048576 /dev/urandom >"$tree/a/b/range"
head -c 5000001 /dev/urandom >"$tree/a/b/c/ranges"
printf 'x' >"$tree/odd ' \" name
of two lines"
printf 'x' >"$tree/$(printf 'n%.0s' {1..255})"
printf 'x' >"$tree/secret" && chmod 0400 "$tree/secret"
ln -s /etc/passwd "$tree/link"
mkfifo "$tree/pipe"
for i in {1..1100}; do echo "$i" >"$tree/many/$i"; done
export TMPDIR=$TEST_TMPDIR/temporary
mkdir "$TMPDIR"
call 0 verify-tree "$tree"
expect_line '1107 files, 5 directories, 6\.1 MB; left out: 1 links, 1 others$'
expect_line '^upload +1107 of 1107 files, 6\.1 MB in .* MB/s over tcp$'
expect_line '^download +1107 of 1107 files, 6\.1 MB in .* MB/s over tcp$'
expect_line '^verify +1107 of 1107 files, .*, mismatches 0$'
expect_served .mi7-uploads dir file out up
[ -z "$(ls -A "$TMPDIR")" ] || fail "the client left files in its temporary directory"

# Whoever stops it in the middle finds nothing left either.
head -c 200000000 /dev/zero >"$tree/large"
# Not under timeout, which passes a signal on twice.
exec {progress}< <(exec "$client" --server="$endpoint" verify-tree "$tree" 2>&1)
client_pid=$!
while read -r -t 60 -u "$progress" line && [[ $line != "tree "* ]]; do :; done
kill -s INT "$client_pid"
cat <&"$progress" >"$output"
wait "$client_pid" && fail "verify-tree succeeded although it was interrupted"
exec {progress}<&-
expect_line '^client: CANCELLED: interrupted$'
expect_served .mi7-uploads dir file out up
[ -z "$(ls -A "$TMPDIR")" ] || fail "the interrupted client left files in its temporary directory"
rm "$tree/large"

# A server that is killed in the middle of uploads forgets them at its next start.
: >"$served/.mi7-uploads/0123456789abcdef"
stop_server KILL 137
call 1 --timeout_s=20 ls && expect_line '^client: UNAVAILABLE: '
expect_line "Start one with: server --root=DIRECTORY --listen=$endpoint$"
start_server
call 0 ls .
[ -z "$(ls -A "$served/.mi7-uploads")" ] || fail "half a file of the killed server is still there"
run 1 "$server" --root "$served" --listen tcp:127.0.0.1:0
expect_line '^server: FAILED_PRECONDITION: another server writes below this root; .*--read_only$'
stop_server TERM 0
expect_served dir file out up

start_server --read_only
call 0 get file "$TEST_TMPDIR/back"
call 1 put "$tree/one" file && expect_line "^client: PERMISSION_DENIED: .*'file'.*--read_only"
call 1 verify-tree "$tree" && expect_line '^client: PERMISSION_DENIED: .*--read_only'
stop_server INT 0
expect_served dir file out up

run 1 "$server" --listen tcp:127.0.0.1:0
expect_line '^server: INVALID_ARGUMENT: --root is missing'
run 1 "$server" --root "$TEST_TMPDIR/none"
expect_line "^server: NOT_FOUND: .*/none'"
run 1 "$server" --root "$served/file"
expect_line "^server: FAILED_PRECONDITION: .*/file'"

[ "$failures" = 0 ]
