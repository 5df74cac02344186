#!/bin/bash
# The code of the big schema, with names of all lengths, is what clang-format would make of it.
set -u
cd "$TEST_SRCDIR/$TEST_WORKSPACE" || exit 1
lines=$(wc -l <tests/codegen/big.capnp)
if ((lines < 2000)); then
  echo "the big schema has only $lines lines"
  exit 1
fi
if ! command -v clang-format >/dev/null; then
  echo "NOTICE: clang-format is not installed, so the format of generated code was not checked"
  exit 0
fi
cp -L .clang-format tests/codegen/big.mi7.* "$TEST_TMPDIR"
cd "$TEST_TMPDIR" || exit 1
if ! clang-format --style=file --dry-run -Werror big.mi7.*; then
  echo "the generated code is not formatted"
  exit 1
fi
echo "$(cat big.mi7.* | wc -l) generated lines are formatted"
