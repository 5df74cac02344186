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
# Sources and generated code lie together where a test runs.
"$bench" --rounds=1 --measure=2ms --quick --idle_connections=128 --programs="$programs" \
  --compile_roots="$PWD:$PWD" \
  --placements=one,unpinned --json="$json" --html="$html" \
  --only=L,T,S,V5.raw,raw,tcp,unix,inproc,shm,streams,threads,processes,capnp,syscalls.shm,syscalls.unix,syscalls.inproc,syscalls.tcp,syscalls.raw,allocations,copied,methods,startup.mi7,size.mi7,compile.mi7 >"$TEST_TMPDIR/table"
cat "$TEST_TMPDIR/table"
grep -Eq '^Measured for ([0-9]+h)?([0-9]+m)?[0-9]+s\.$' "$TEST_TMPDIR/table" || {
  echo "it does not say how long it took" >&2
  exit 1
}
if grep -v '"missing":null' "$json"; then
  echo "some figures are missing" >&2
  exit 1
fi
for id in raw.tcp.blocking raw.tcp.batch.blocking capnp.idle.server T1 T2 T3 T5.idle.client L6 L8 \
  L9.processes S4.4x4 S4.1x4 processes.tcp processes.unix threads.inproc streams.shm.64B streams.tcp.1MiB streams.unix.calls \
  streams.shm.callbacks streams.inproc.back streams.shm.allocations streams.raw.tcp.64B \
  V5.raw methods.1 methods.10 methods.10000 startup.mi7.inproc unix.idle.client L7.copied.32 \
  capnp_rpc.tcp.stream.64B syscalls.tcp.blocking syscalls.tcp.spinning.client \
  syscalls.tcp.adaptive.64.batch.server syscalls.raw.tcp.batch.spinning.sends copied.shm.echo1MiB \
  inproc.64.blocking shm.64.blocking streams.shm.echo streams.tcp.echo.64 \
  syscalls.inproc.adaptive.64 streams.inproc.syscalls raw.memcpy.64B raw.memcpy.16MiB compile.mi7; do
  grep -q "\"id\":\"$id\"" "$json" || { echo "no row $id" >&2; exit 1; }
done
figure_of() {
  sed -n "s/.*\"id\":\"$1\",.*\"value\":\([0-9.e+-]*\),.*/\1/p" "$json"
}
# Whether `condition` on the figures `a` of row $1 and `b` of row $2 holds.
holds() {
  awk -v a="$(figure_of "$1")" -v b="$(figure_of "$2")" "BEGIN { exit !($3) }" || {
    echo "$1 is $(figure_of "$1"), $2 is $(figure_of "$2"): not $3" >&2
    exit 1
  }
}
# A sanitizer has the functions that would count.
if ! grep -q -e __asan_init -e __tsan_init "$programs/mi7_counting"; then
  # What the processes count themselves is what is seen from outside, where nobody polls.
  holds syscalls.tcp.blocking syscalls.tcp.blocking.ptrace 'a > 1 && a < 1.3 * b && b < 1.3 * a'
  # A recv and a send, which is what the limit is said to be.
  holds syscalls.raw.tcp.blocking.client syscalls.raw.tcp.blocking.server \
    'a > 1.9 && a < 2.1 && b > 1.9 && b < 2.1'
  # Who has a batch sends it at once.
  holds syscalls.raw.tcp.batch.blocking.sends syscalls.raw.tcp.batch.blocking.batch.client \
    'a > 0 && a < 1 && b > 2'
  holds syscalls.tcp.blocking.64.receives syscalls.tcp.blocking.64.sends 'a > 0 && b > 0 && b < 2'
fi
holds compile.mi7 raw.memcpy.16MiB 'a > 1e8 && b > 0'
grep -q '</html>' "$html" || { echo "no report" >&2; exit 1; }
"$bench" --compare "$json" "$json" || { echo "a run is worse than itself" >&2; exit 1; }
# One that is killed leaves nothing either.
"$bench" --rounds=1 --measure=60s --programs="$programs" --placements=unpinned --only=S4 >/dev/null &
killed=$!
# Its directory, as soon as a subject has been told of it.
directory=$(timeout 20 sh -c '
  while :; do
    for stat in /proc/[0-9]*/stat; do
      read -r pid comm state parent rest 2>/dev/null <"$stat" || continue
      [ "$comm $parent" = "(slot_pipe) $1" ] || continue
      told=$(tr "\0" "\n" 2>/dev/null <"/proc/$pid/environ" | grep "^XDG_RUNTIME_DIR=.*/mi7-bench-") || continue
      echo "${told#*=}"
      exit
    done
  done' sh "$killed") || :
kill -9 $killed
wait $killed 2>/dev/null || :
timeout 10 sh -c 'while [ -e "$1" ]; do :; done' sh "$directory" || :
case $directory in
  */mi7-bench-??????) ;;
  *) echo "no directory of a run: '$directory'" >&2; exit 1 ;;
esac
if [ -e "$directory" ]; then echo "a killed run left $directory" >&2; exit 1; fi
for cmdline in /proc/[0-9]*/cmdline; do
  if tr '\0' ' ' 2>/dev/null <"$cmdline" | grep -q "^$programs/"; then
    echo "left behind: $(tr '\0' ' ' <"$cmdline")" >&2
    exit 1
  fi
done
