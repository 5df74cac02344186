#!/bin/sh
# Runs the bench for a moment over every subject that is always there: every figure must come out,
# and no process of it may stay behind.
set -eu
bench=$1
shift
json=$TEST_TMPDIR/figures.json
html=$TEST_TMPDIR/report.html
# Bazel gives the subjects' programs as arguments; they are all in one directory.
programs=$(cd "$(dirname "$1")" && pwd)
"$bench" --rounds=1 --measure=2ms --quick --idle_connections=128 --programs="$programs" \
  --placements=one,unpinned --json="$json" --html="$html" \
  --only=L,T,S,V5.raw,raw,tcp,unix,streams,threads,processes,capnp,syscalls,allocations,copied,methods,startup.mi7,size.mi7
if grep -v '"missing":null' "$json"; then
  echo "some figures are missing" >&2
  exit 1
fi
for id in raw.tcp.blocking raw.tcp.batch.blocking capnp.idle.server T1 T2 T3 T5.idle.client L6 L8 \
  L9.processes S4.4x4 S4.1x4 processes.tcp streams.shm.64B streams.tcp.1MiB streams.unix.calls \
  streams.shm.callbacks streams.inproc.back streams.shm.allocations streams.raw.tcp.64B \
  V5.raw methods.10 methods.10000 startup.mi7.inproc unix.idle.client L7.copied.32 \
  capnp_rpc.tcp.stream.64B syscalls.tcp.blocking copied.shm.echo1MiB; do
  grep -q "\"id\":\"$id\"" "$json" || { echo "no row $id" >&2; exit 1; }
done
# What the processes count themselves is what is seen from outside, where nobody polls.
calls_of() {
  sed -n "s/.*\"id\":\"$1\",.*\"value\":\([0-9.e+-]*\),.*/\1/p" "$json"
}
counted=$(calls_of syscalls.tcp.blocking)
traced=$(calls_of syscalls.tcp.blocking.ptrace)
awk -v a="$counted" -v b="$traced" 'BEGIN { exit !(a > 1 && a < 1.3 * b && b < 1.3 * a) }' || {
  echo "the client and the server count $counted system calls a call, ptrace $traced" >&2
  exit 1
}
grep -q '</html>' "$html" || { echo "no report" >&2; exit 1; }
"$bench" --compare "$json" "$json" || { echo "a run is worse than itself" >&2; exit 1; }
for cmdline in /proc/[0-9]*/cmdline; do
  if tr '\0' ' ' 2>/dev/null <"$cmdline" | grep -q "^$programs/"; then
    echo "left behind: $(tr '\0' ' ' <"$cmdline")" >&2
    exit 1
  fi
done
