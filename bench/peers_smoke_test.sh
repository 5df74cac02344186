#!/bin/sh
# Each peer gives figures over everything it is asked for, or says which packages it needs.
set -eu
bench=$1
shift
json=$TEST_TMPDIR/figures.json
programs=$(cd "$(dirname "$1")" && pwd)
"$bench" --rounds=1 --measure=2ms --quick --programs="$programs" --placements=one,unpinned \
  --json="$json" --only=V,brpc,sink,syscalls.thrift,syscalls.zeromq,grpc,thrift,zeromq,nng,boost,iceoryx
# iceoryx is here for calls.
for peer in grpc_sync grpc_callback thrift zeromq nng boost_queue; do
  grep -q "\"id\":\"$peer\." "$json" || { echo "no row of $peer" >&2; exit 1; }
  grep -q "\"id\":\"$peer\.[a-z]*\.stream\.1MiB\"" "$json" ||
    { echo "no stream of $peer" >&2; exit 1; }
done
for id in V1 V1.grpc_callback V1.iceoryx V3.iceoryx V3.iceoryx.1MiB V7.V3.iceoryx iceoryx.shm.spinning.1MiB V2.boost V2.grpc_sync V5.grpc_sync V4.adaptive V6.16MiB.zeromq V6.zeromq.pinned V7 V7.V1 V5.brpc V7.V6.brpc brpc.tcp sink.shm.64B.boost \
  sink.tcp.1MiB.nng syscalls.thrift.tcp syscalls.thrift.tcp.server syscalls.zeromq.tcp.1MiB.sends; do
  grep -q "\"id\":\"$id\"" "$json" || { echo "no row $id" >&2; exit 1; }
done
if grep -v -e '"missing":null' -e '"missing":"[a-z_]*: not installed: apt-get install ' \
  -e '"missing":"brpc: not packaged by Debian: ' "$json"; then
  echo "some peers neither work nor say what they need" >&2
  exit 1
fi
# Nothing of iceoryx stays: its daemon, which outlives the last server for a moment, removes it.
timeout 10 sh -c \
  'while ls -d /tmp/mi7-bench-* /tmp/iox-unique-roudi.lock /dev/shm/iceoryx_mgmt; do :; done' >/dev/null 2>&1 || {
  ls -d /tmp/mi7-bench-* /tmp/iox-unique-roudi.lock /dev/shm/iceoryx_mgmt
  echo "these stay behind" >&2
  exit 1
}
