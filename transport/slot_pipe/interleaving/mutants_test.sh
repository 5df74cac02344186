#!/bin/bash
# Each seeded fault is found in some order of the steps.
set -u
folder=transport/slot_pipe/interleaving
missed=0
for mutant in "$@"; do
  if output=$(timeout 100 "$folder/$mutant" 2>&1); then
    echo "MISSED: $mutant"
    missed=$((missed + 1))
  else
    printf 'found: %-36s %s\n' "$mutant" "$(tail -1 <<<"$output")"
  fi
done
echo "RELIABILITY: $# seeded faults, $missed missed"
[ "$missed" = 0 ]
