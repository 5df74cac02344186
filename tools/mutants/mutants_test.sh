#!/bin/bash
# Each seeded fault is found: a test passes without it, and fails with it.
#
#   mutants_test.sh [NAME=VALUE...] --args=ARGUMENTS TEST MUTANT@FILTER...
#
# FILTER: the tests of GoogleTest that have to find it. NAME=VALUE: for the mutants; that the test
# passes without a fault is seen elsewhere then, because it may take long. A test that skips itself,
# because the machine does not permit it, finds nothing, and says why.
set -u
settings=()
while [[ $1 != --args=* ]]; do settings+=("$1") && shift; done
read -r -a arguments <<<"${1#--args=}"
test=$2 && shift 2

# Why a program ended with status $2 after the output $1, in a line.
last_words() {
  local line
  line=$(grep -m 1 -a -E ': Failure$|check failed|terminate called|SUMMARY: ' <<<"$1")
  [[ -n $line || $2 -le 128 ]] || line="signal $(($2 - 128))"
  echo "${line:0:110}"
}

filters=
for mutant; do filters+=${filters:+:}${mutant#*@}; done
if [[ ${#settings[@]} == 0 ]]; then
  if ! output=$(GTEST_FILTER=$filters timeout 200 "./$test" "${arguments[@]}" 2>&1); then
    echo "$output"
    echo "FAILED without a fault: $test"
    exit 1
  fi
  if grep -q '^\[  SKIPPED \]' <<<"$output" && ! grep -q '^\[       OK \]' <<<"$output"; then
    grep '^NOTICE: ' <<<"$output" | sort -u
    exit 0
  fi
fi

missed=0
for mutant; do
  program=${mutant%%@*}
  output=$(env "${settings[@]}" GTEST_FILTER="${mutant#*@}" timeout 100 "./$program" \
    "${arguments[@]}" 2>&1)
  status=$?
  # A test that cannot be told from a slow machine has not found anything.
  if [[ $status == 0 || $status == 124 ]]; then
    tail -5 <<<"$output"
    echo "MISSED: ${program##*/} (status $status)"
    missed=$((missed + 1))
  else
    printf 'found: %-44s %s\n' "${program##*/}" "$(last_words "$output" $status)"
  fi
done
echo "RELIABILITY: $# seeded faults, $missed missed"
[ "$missed" = 0 ]
