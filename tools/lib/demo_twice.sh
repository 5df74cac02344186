#!/bin/bash
# Runs tools/demo twice: it calls over every transport and says how long that took, works again as it
# did the first time, and leaves no process and no file behind. A step of tools/test, whose lock and
# whose build it uses.
set -eu
cd "$(dirname "$0")/../.."

fail() {
  echo "$*" >&2
  exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -m 700 "$scratch/tmp" "$scratch/runtime"

# Every file of the tree but git's, Bazel's and the scripts' own.
list_files() {
  find . \( -path ./.git -o -path ./.cache -o -name 'bazel-*' \) -prune -o -print | LC_ALL=C sort
}

# Processes that the demo started, however far down: they have its environment.
list_processes() {
  for process in /proc/[0-9]*; do
    if tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -q -x -F "MI7_DEMO_RUN=$scratch"; then
      printf '%s %s\n' "${process#/proc/}" "$(tr '\0' ' ' <"$process/cmdline" || :)"
    fi
  done 2>/dev/null
}

# expect_line WHAT PATTERN: the demo printed a line that is all of the pattern.
expect_line() {
  grep -q -x -E "$2" "$scratch/out" || {
    cat "$scratch/out"
    fail "the $run run of tools/demo did not print $1"
  }
}

# expect_row ENDPOINT TRANSPORT: a row of the table, with p50 and p99.
expect_row() {
  expect_line "how long calls over $2 to $1 took" "$1[^ ]* +$2 +[0-9.]+ us +[0-9.]+ us"
}

# expect_calls TRANSPORT: what the client has called, in each of its three ways, and the answer.
expect_calls() {
  for style in blocking callback coroutine; do
    expect_line "the answer of a $style call over $1" "$style +$1 +.*  ->  .+"
  done
  expect_line "that 2 + 3 is 5 over $1" "blocking +$1 +add\(2, 3\)  ->  5"
}

for run in first second; do
  list_files >"$scratch/before"
  if ! MI7_DEMO_RUN=$scratch TMPDIR=$scratch/tmp XDG_RUNTIME_DIR=$scratch/runtime \
    tools/demo --no-setup --debug --calls=200 >"$scratch/out" 2>&1; then
    cat "$scratch/out"
    fail "the $run run of tools/demo failed"
  fi
  grep -q '^== Done$' "$scratch/out" || fail "the $run run of tools/demo ended early"
  expect_row mi7:// shm
  expect_row shm: shm
  expect_row unix: unix
  expect_row tcp:127 tcp
  for transport in shm unix tcp inproc; do expect_calls "$transport"; done
  if grep -q ' lo$' /proc/net/if_inet6 2>/dev/null; then expect_row 'tcp:\[::1\]' tcp; fi
  expect_row inproc: inproc
  # All of them, and the tree has hundreds.
  expect_line "that the files came back the same" \
    'verify +([1-9][0-9]{2,}) of \1 files, .*, mismatches 0'
  list_files >"$scratch/after"
  diff "$scratch/before" "$scratch/after" || fail "the $run run of tools/demo changed the tree"
  left=$(find "$scratch/tmp" "$scratch/runtime" -mindepth 1)
  [ -z "$left" ] || fail "the $run run of tools/demo left files: $left"
  left=$(list_processes)
  [ -z "$left" ] || fail "the $run run of tools/demo left processes: $left"
  echo "$run run: $(grep -c '' "$scratch/out") lines, nothing is left"
done
