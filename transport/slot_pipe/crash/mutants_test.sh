#!/bin/bash
# Each seeded fault is found: the program of the test of every instruction fails with it, and says
# where; to have made too little, or to have left something behind, is no finding of a fault. Where
# nothing may be traced it says so, and finds nothing.
set -u
folder=transport/slot_pipe/crash
"$folder/every_instruction_test" --can_trace
case $? in
  0) ;;
  77) exit 0 ;; # with a NOTICE
  *) exit 1 ;;  # it should be permitted here
esac
found=0 missed=0
for mutant in "$@"; do
  output=$("$folder/$mutant" 2>&1)
  status=$?
  where=$(grep -E 'after instruction|check failed' <<<"$output" | tail -1)
  if [ "$status" = 0 ] || [ -z "$where" ]; then
    tail -3 <<<"$output"
    echo "MISSED: $mutant (status $status)"
    missed=$((missed + 1))
  else
    printf 'found: %-28s %s\n' "$mutant" "$where"
    found=$((found + 1))
  fi
done
echo "RELIABILITY: $((found + missed)) seeded faults, $missed missed"
[ "$missed" = 0 ] && [ "$found" -ge 10 ]
