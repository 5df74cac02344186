#!/bin/sh
# Runs the bench for a moment over every subject: every figure must come out, and no process of it
# may stay behind.
set -eu
bench=$1
shift
json=$TEST_TMPDIR/figures.json
# Bazel gives the subjects' programs as arguments; they are all in one directory.
programs=$(cd "$(dirname "$1")" && pwd)
"$bench" --rounds=1 --measure=2ms --idle_connections=64 --programs="$programs" \
  --placements=one,unpinned --json="$json"
if grep -v '"missing":null' "$json"; then
  echo "some figures are missing" >&2
  exit 1
fi
for id in raw.tcp.blocking raw.tcp.batch.blocking capnp.tcp capnp.tcp.64 capnp.idle.server T1 T2 T3 T5.idle.client; do
  grep -q "\"id\":\"$id\"" "$json" || { echo "no row $id" >&2; exit 1; }
done
for cmdline in /proc/[0-9]*/cmdline; do
  if tr '\0' ' ' 2>/dev/null <"$cmdline" | grep -q "^$programs/"; then
    echo "left behind: $(tr '\0' ' ' <"$cmdline")" >&2
    exit 1
  fi
done
