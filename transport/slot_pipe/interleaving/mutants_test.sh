#!/bin/bash
# Each seeded fault is found in some order of the steps: of the scenarios that begin with PREFIX.
#
#   mutants_test.sh MUTANT[:PREFIX]...
set -u
folder=transport/slot_pipe/interleaving
missed=0
for mutant in "$@"; do
  prefix=${mutant#"${mutant%%:*}"} mutant=${mutant%%:*}
  output=$(timeout 100 "$folder/$mutant" --only="${prefix#:}" 2>&1)
  status=$?
  # 3: all was well, in fewer orders than without the fault. 125 to 127: it could not be run.
  if [ "$status" = 0 ] || [ "$status" = 3 ] || { [ "$status" -ge 125 ] && [ "$status" -le 127 ]; }; then
    echo "MISSED: $mutant (status $status)"
    missed=$((missed + 1))
  else
    printf 'found: %-36s %s\n' "$mutant" "$(tail -1 <<<"$output")"
  fi
done
echo "RELIABILITY: $# seeded faults, $missed missed"
[ "$missed" = 0 ]
