#!/bin/bash
# Compares what the generator makes of the golden schemas with expected/, and checks its format.
set -u
cd "$TEST_SRCDIR/$TEST_WORKSPACE/tests/golden"
failed=0

compare() {
  local generated=$1 expected=expected/$1
  if [[ ! -f $expected ]]; then
    echo "$generated is generated, but $expected is not there"
    failed=1
  elif ! diff -u "$expected" "$generated"; then
    failed=1
  fi
}

count=0
while IFS= read -r file; do
  compare "${file#./}"
  count=$((count + 1))
done < <(find -L . -name '*.mi7.*' -not -path './expected/*' -type f | LC_ALL=C sort)

while IFS= read -r file; do
  if [[ ! -f ${file#expected/} ]]; then
    echo "$file is there, but nothing generates it"
    failed=1
  fi
done < <(find -L expected -type f | LC_ALL=C sort)

if ((count == 0)); then
  echo "nothing was generated"
  failed=1
fi

if ! command -v clang-format >/dev/null; then
  echo "NOTICE: clang-format is not installed, so the format of generated code was not checked"
else
  cp -L "$TEST_SRCDIR/$TEST_WORKSPACE/.clang-format" "$TEST_TMPDIR/.clang-format"
  cp -rL expected "$TEST_TMPDIR/expected"
  find "$TEST_TMPDIR/expected" -type f -print0 |
    xargs -0 clang-format --style="file:$TEST_TMPDIR/.clang-format" --dry-run -Werror || failed=1
fi

if ((failed)); then
  echo
  echo "If the new output is right, run tools/update_goldens and commit what it changes."
  exit 1
fi
echo "$count generated files are as expected"
