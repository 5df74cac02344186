#!/bin/bash
# Each seeded fault is found: the program of the test of every instruction fails with it, and says
# where. Where nothing can be traced it says so, and finds nothing.
set -u
folder=transport/slot_pipe/crash
if "$folder/every_instruction_test" --can_trace | grep NOTICE; then exit 0; fi
found=0 missed=0
for mutant in "$@"; do
  output=$("$folder/$mutant" 2>&1)
  status=$?
  # 126 and 127: the shell could not run it.
  if [ "$status" = 0 ] || [ "$status" = 126 ] || [ "$status" = 127 ]; then
    echo "MISSED: $mutant (status $status)"
    missed=$((missed + 1))
  else
    printf 'found: %-28s %s\n' "$mutant" "$(grep -E 'after instruction|check failed' <<<"$output" | tail -1)"
    found=$((found + 1))
  fi
done
echo "RELIABILITY: $((found + missed)) seeded faults, $missed missed"
[ "$missed" = 0 ] && [ "$found" -ge 10 ]
