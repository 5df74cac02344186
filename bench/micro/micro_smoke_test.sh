#!/bin/sh
# Runs every micro-benchmark for a moment: each of its figures must come out.
set -eu
for program; do
  figures=$TEST_TMPDIR/$(basename "$program").json
  "$program" --benchmark_min_time=0.001 --benchmark_format=json >"$figures" || {
    echo "$program failed" >&2
    exit 1
  }
  listed=$("$program" --benchmark_list_tests | wc -l)
  measured=$(grep -c '"real_time": ' "$figures")
  if [ "$listed" -eq 0 ] || [ "$measured" -ne "$listed" ] || grep -q '"error_occurred": true' "$figures"; then
    echo "$program: $measured figures of $listed" >&2
    cat "$figures" >&2
    exit 1
  fi
  echo "$(basename "$program"): $measured figures"
done
